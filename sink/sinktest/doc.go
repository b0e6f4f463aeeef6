// Package sinktest is the conformance kit for sink plugins: it starts a plugin's executable, in whatever language it is
// written, plays muxd to it, and holds it to what PROTOCOL.md says. muxctl plugin check is its command; in Go tests
//
//	func TestPlugin(t *testing.T) {
//		sinktest.Run(t, sinktest.Options{Command: []string{"./muxd-sink-mine"}, Specs: []string{"mine:{out}"}})
//	}
//
// makes every check a subtest.
//
// The host side here is a second one, written from PROTOCOL.md and not after muxd's: it shares the fd channel's
// packets (internal/fdchan) and the messages (sink/sinkpb) with it, and nothing else.
//
// # What a check does
//
// Each check starts processes of its own. It opens sinks with one of the specs, writes to their near ends as a child does,
// kills or stops the process where it is about that, and compares what came out with what was written. To find what came
// out, a spec has placeholders, for which each opening gets a value of its own:
//
//	{out}      the path of a file that does not exist; its content is compared
//	{listen}   the path of a Unix stream socket on which the kit listens; what is sent to it is compared
//	{connect}  the path of a Unix stream socket to which the kit connects once it exists; what comes is compared
//	{fifo}     the path of a FIFO that the kit reads
//	{dir}      an empty directory
//
// Every process and file of a check is gone when Check returns, and with Run when the test does; and soon after the kit is killed, also by
// go test's -timeout: a shell of its own sees to that.
//
// Options.Read names another way. What a console shows is read as a viewer. Where nothing can be read back the checks that
// compare bytes do not apply, and the numbers of eof and flushed are checked all the same.
package sinktest
