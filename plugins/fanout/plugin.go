// Package fanout is the plugin that stands between a stream and several sinks. The SDK does what there is to do: it copies
// the stream into the sinks' pipes, with tee(2), so that no byte of it comes into the process but on its way out of a spill file.
package fanout

import "github.com/muxd/muxd/sink"

// Plugin returns the sink plugin "fanout".
func Plugin() sink.Plugin {
	return sink.Plugin{
		Name:    "fanout",
		Help:    "copies a stream that has several sinks to each of them",
		Carries: []sink.Stream{sink.Stdout, sink.Stderr},
		Copies:  true,
	}
}
