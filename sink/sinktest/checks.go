package sinktest

import "github.com/muxd/muxd/sink/sinkpb"

// about is what a check is about: with what else there is it does not apply.
type about int

const (
	aPlugin      about = iota // once, and not with each spec
	aSpec                     // any
	whatComesOut              // of an output stream
	whatItReads               // not what the child has as the file or connection itself
	whatItKeeps               // for Logs
	pipes
	consoles
)

// of says why a check does not apply to the session's target.
func (a about) of(s *session) error {
	t := s.target
	switch {
	case a == aPlugin || a == aSpec:
	case t.out == 0:
		return notApplicable("the plugin carries no output")
	case a == whatComesOut:
	case t.wiring == sinkpb.Wiring_DIRECT:
		return notApplicable("with this spec the child has the file or connection itself")
	case a == pipes && t.wiring != sinkpb.Wiring_PIPE:
		return notApplicable("it is about pipes")
	case a == consoles && t.wiring != sinkpb.Wiring_PTY:
		return notApplicable("it is about consoles")
	case a == whatItKeeps && !s.desc.KeepsLogs:
		return notApplicable("it keeps no logs")
	case a == whatItKeeps && t.read == readFIFO:
		return notApplicable("a FIFO keeps nothing")
	}
	return nil
}

// allChecks are the checks in their order: ids are stable, and what stands before the first dot is their group.
func allChecks() []*check {
	return []*check{
		{"start.cookie", "without muxd's magic cookie it says on stderr that it is a plugin, and exits with another status than 0", aPlugin, startCookie},
		{"start.handshake", "within the start time-out it writes one handshake line and nothing else to its stdout", aPlugin, startHandshake},
		{"start.slow", "it starts all the same when it is stopped in the middle of its start", aPlugin, startSlow},
		{"start.version", "offered only versions that it does not speak, it answers with its own, or exits and says which it speaks; of several it takes one that it was offered", aPlugin, startVersion},
		{"start.shutdown", "it ends within 2 seconds of Shutdown", aPlugin, startShutdown},
		{"describe", "Describe gives a name, streams and options that are well formed, and the same each time", aPlugin, describeCheck},
		{"options.unknown", "Check refuses an option that is not in the description, with INVALID_ARGUMENT and a sentence that names it", aSpec, optionsUnknown},
		{"options.bad", "Check refuses a value that is not of its option's type, with INVALID_ARGUMENT", aSpec, optionsBad},
		{"options.pure", "Check changes nothing, and answers the same each time", aSpec, optionsPure},
		{"calls.unknown", "calls about an opening that does not exist answer NOT_FOUND, and Forget answers OK", aPlugin, callsUnknown},
		{"calls.ticket", "Open answers INVALID_ARGUMENT to a ticket that is none", whatComesOut, callsTicket},
		{"calls.again", "every call may be repeated: it answers the same, and changes nothing", whatItReads, callsAgain},
		{"calls.watch", "Watch tells all states and then Snapshot, and ends the Watch before it with ABORTED", whatItReads, callsWatch},

		{"wiring", "Open uses the wiring that Check answered, and the near end leads to the sink", whatComesOut, wiringCheck},
		{"bytes.none", "a child that writes nothing has 0 bytes of eof and flushed", whatItReads, bytesNone},
		{"bytes.small", "every byte of many small writes comes out", whatComesOut, bytesSmall},
		{"bytes.binary", "every byte value comes out as it is, also without a newline at the end", whatComesOut, bytesBinary},
		{"bytes.large", "every byte of large writes comes out", whatComesOut, bytesLarge},
		{"bytes.both", "stdout and stderr of one opening are flushed, each with its own number of bytes", whatItReads, bytesBoth},

		{"end.order", "eof is told when the last writer has gone, then flushed with the same number; Forget is refused before", whatItReads, endOrder},
		{"end.writers", "after the child's exit a stream lasts as long as somebody writes to it", whatItReads, endWriters},
		{"end.cut", "after Cut what was written is put out, and eof and flushed are told, though somebody could still write", whatItReads, endCut},
		{"end.stuck", "after Cut a stream whose destination takes nothing ends within a few seconds, and says what is lost", whatItReads, endStuck},
		{"end.drained", "the far end stays open until Forget: a child that still writes gets no SIGPIPE", pipes, endOpen},

		{"pressure", "while its destination takes nothing the sink lets the child wait, or drops and counts, as it declares", whatItReads, pressureCheck},
		{"hang.stop", "after SIGSTOP and SIGCONT it answers Openings, and no byte is lost", whatComesOut, hangStop},
		{"hang.busy", "it answers Openings while its destination takes nothing", whatItReads, hangBusy},

		{"kill.random", "killed at random moments, its successor goes on: nothing is lost or doubled if the sink says exact", whatItReads, killRandom},
		{"kill.open", "killed while Open moves descriptors, its successor can be asked again", whatItReads, killOpen},
		{"kill.park", "killed at any Park, before it is held or before it is acknowledged, its successor goes on", whatItReads, killPark},
		{"kill.unread", "killed with bytes in the pipe that it has not read, its successor reads them", whatItReads, killUnread},
		{"kill.again", "killed while it recovers, the next one goes on", whatItReads, killAgain},
		{"kill.end", "killed between End and flushed, its successor tells how the stream ended", whatItReads, killEnd},
		{"kill.told", "killed after flushed was told, its successor tells the same number, and puts nothing out twice", whatItReads, killTold},

		{"move.leave", "Leave ends the sink between two bytes: what it took is put out, the rest is left in the pipe", pipes, moveLeave},
		{"move.rewire", "Rewire has it go on with another pipe between two bytes: the rest is left in the one before, and its end is nothing to it", pipes, moveRewire},
		{"move.repark", "Repark parks everything again, and the far ends: a successor that has only that goes on", whatItReads, moveRepark},
		{"move.alone", "with nobody at its fd channel it goes on, and takes a new channel where it listens", whatItReads, moveAlone},
		{"move.idle", "with nobody at its fd channel and nothing to do it ends", aPlugin, moveIdle},
		{"move.pause", "after Pause it takes nothing more of any stream", pipes, movePause},

		{"fds.surplus", "of another number of descriptors than it expects it takes none, answers an error, and closes them", pipes, fdsSurplus},
		{"fds.malformed", "packets that are malformed, or of no known type, are dropped with their descriptors, and the channel goes on", whatComesOut, fdsMalformed},
		{"fds.unclaimed", "a Give that no call names is refused after 10 seconds, and its descriptors are closed", aPlugin, fdsUnclaimed},
		{"fds.call", "where it says so, calls come on the fd channel, with their descriptors", aSpec, fdsCall},
		{"fds.leak", "after many openings it has as many descriptors open as before", whatComesOut, fdsLeak},
		{"streams", "many streams at once all come out whole", whatComesOut, streamsCheck},

		{"stdin", "what the far peer sends is the child's stdin, and its end ends that", whatItReads, stdinCheck},
		{"stdin.exit", "a child that exits, or closes its stdin, ends no sink", whatItReads, stdinExit},
		{"logs.all", "Logs gives every line with its end, the last lines, and what comes behind a cursor", whatItKeeps, logsAll},
		{"logs.follow", "Logs that follow come to their end when the stream does", whatItKeeps, logsFollow},

		{"console.keys", "what a viewer types comes to the child once, and is acknowledged", consoles, consoleKeys},
		{"console.size", "Resize sets the terminal's window size", consoles, consoleSize},
		{"console.frames", "a malformed frame ends its viewer's connection and nothing else", consoles, consoleFrames},
		{"console.reopen", "a child that closes its terminal and opens it again goes on, until its exit", consoles, consoleReopen},

		{"console.branch", "what it shows goes into a branch that is added, once and in order, and that is closed before flushed is told", consoles, consoleBranch},

		{"metrics", "Stat tells the numbers that the description declares, and no others, and a count never falls; if the sink says exact, in the next process neither", whatItReads, metricsCheck},
		{"log", "what it writes to its log is short, however much goes through it", aSpec, logCheck},
	}
}
