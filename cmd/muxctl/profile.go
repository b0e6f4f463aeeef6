package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/muxd/muxd/control/controlpb"
)

func (a *app) agentProfileCmd() *cobra.Command {
	var kind, output string
	var d time.Duration
	c := &cobra.Command{
		Use: "profile [agent|keeper|PLUGIN]", Short: "Take a profile of one of muxd's processes", Args: args(cobra.MaximumNArgs(1)),
		Long: `profile takes a profile of the agent, the keeper, or a plugin that runs, and writes it to a file for "go tool pprof".
Of kind cpu it takes the time that --for says, in which muxd goes on as always. Kind stacks is text: each goroutine with what it does.`,
		Example: "  muxctl agent profile file --for 5s\n  muxctl agent profile keeper --kind stacks --output -",
		RunE: func(c *cobra.Command, words []string) error {
			process := "agent"
			if len(words) > 0 {
				process = words[0]
			}
			m, err := a.muxd()
			if err != nil {
				return err
			}
			resp, err := m.API.Profile(c.Context(), &controlpb.ProfileRequest{Process: process, Kind: kind, Duration: int64(d)})
			if err != nil {
				return err
			}
			if output == "-" {
				_, err := os.Stdout.Write(resp.Profile)
				return err
			}
			if output == "" {
				output = fmt.Sprintf("muxd-%s-%d.%s", process, resp.Pid, kind)
			}
			if err := os.WriteFile(output, resp.Profile, 0o600); err != nil {
				return err
			}
			fmt.Println(output)
			return nil
		},
	}
	c.Flags().StringVar(&kind, "kind", "cpu", "cpu, heap, goroutine or stacks")
	c.Flags().DurationVar(&d, "for", 10*time.Second, "how long a profile of kind cpu takes")
	c.Flags().StringVar(&output, "output", "", `file to write; "-": stdout (default muxd-PROCESS-PID.KIND)`)
	return c
}
