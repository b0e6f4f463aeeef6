// Command muxd is a muxd that says what it speaks and finds every configuration in order, and does not start.
package main

import (
	"encoding/json"
	"os"

	"github.com/muxd/muxd/core/agent"
)

func main() {
	switch os.Args[len(os.Args)-1] {
	case "protocols":
		json.NewEncoder(os.Stdout).Encode(agent.ProtocolsOf("v2-broken"))
	case "--check-config":
	default:
		os.Exit(1)
	}
}
