package sinktest

// allChecks are the checks in their order: ids are stable, and what stands before the first dot is their group.
func allChecks() []*check {
	return []*check{
		{"start.cookie", "without muxd's magic cookie it says on stderr that it is a plugin, and exits with another status than 0", false, startCookie},
		{"start.handshake", "within the start time-out it writes one handshake line and nothing else to its stdout", false, startHandshake},
		{"start.slow", "it starts all the same when it is stopped in the middle of its start", false, startSlow},
		{"start.version", "offered only versions that it does not speak, it answers with its own, or exits and says which it speaks; of several it takes one that it was offered", false, startVersion},
		{"start.shutdown", "it ends within 2 seconds of Shutdown", false, startShutdown},
		{"describe", "Describe gives a name, streams and options that are well formed, and the same each time", false, describeCheck},
		{"options.unknown", "Check refuses an option that is not in the description, with INVALID_ARGUMENT and a sentence that names it", true, optionsUnknown},
		{"options.bad", "Check refuses a value that is not of its option's type, with INVALID_ARGUMENT", true, optionsBad},
		{"options.pure", "Check changes nothing, and answers the same each time", true, optionsPure},
		{"calls.unknown", "calls about an opening that does not exist answer NOT_FOUND, and Forget answers OK", false, callsUnknown},
		{"calls.ticket", "Open answers INVALID_ARGUMENT to a ticket that is none", true, callsTicket},
		{"calls.again", "every call may be repeated: it answers the same, and changes nothing", true, callsAgain},
		{"calls.watch", "Watch tells all states and then Snapshot, and ends the Watch before it with ABORTED", true, callsWatch},

		{"wiring", "Open uses the wiring that Check answered, and the near end leads to the sink", true, wiringCheck},
		{"bytes.none", "a child that writes nothing has 0 bytes of eof and flushed", true, bytesNone},
		{"bytes.small", "every byte of many small writes comes out", true, bytesSmall},
		{"bytes.binary", "every byte value comes out as it is, also without a newline at the end", true, bytesBinary},
		{"bytes.large", "every byte of large writes comes out", true, bytesLarge},
		{"bytes.both", "stdout and stderr of one opening are flushed, each with its own number of bytes", true, bytesBoth},

		{"end.order", "eof is told when the last writer has gone, then flushed with the same number; Forget is refused before", true, endOrder},
		{"end.writers", "after the child's exit a stream lasts as long as somebody writes to it", true, endWriters},
		{"end.cut", "after Cut what was written is put out, and eof and flushed are told, though somebody could still write", true, endCut},
		{"end.stuck", "after Cut a stream whose destination takes nothing ends within a few seconds, and says what is lost", true, endStuck},
		{"end.drained", "the far end stays open until Forget: a child that still writes gets no SIGPIPE", true, endOpen},

		{"pressure", "while its destination takes nothing the sink lets the child wait, or drops and counts, as it declares", true, pressureCheck},
		{"hang.stop", "after SIGSTOP and SIGCONT it answers Openings, and no byte is lost", true, hangStop},
		{"hang.busy", "it answers Openings while its destination takes nothing", true, hangBusy},

		{"kill.random", "killed at random moments, its successor goes on: nothing is lost or doubled if the sink says exact", true, killRandom},
		{"kill.open", "killed while Open moves descriptors, its successor can be asked again", true, killOpen},
		{"kill.park", "killed at any Park, before it is held or before it is acknowledged, its successor goes on", true, killPark},
		{"kill.unread", "killed with bytes in the pipe that it has not read, its successor reads them", true, killUnread},
		{"kill.again", "killed while it recovers, the next one goes on", true, killAgain},
		{"kill.end", "killed between End and flushed, its successor tells how the stream ended", true, killEnd},
		{"kill.told", "killed after flushed was told, its successor tells the same number, and puts nothing out twice", true, killTold},

		{"move.leave", "Leave ends the sink between two bytes: what it took is put out, the rest is left in the pipe", true, moveLeave},
		{"move.repark", "Repark parks everything again, and the far ends: a successor that has only that goes on", true, moveRepark},
		{"move.alone", "with nobody at its fd channel it goes on, and takes a new channel where it listens", true, moveAlone},
		{"move.idle", "with nobody at its fd channel and nothing to do it ends", false, moveIdle},
		{"move.pause", "after Pause it takes nothing more of any stream", true, movePause},

		{"fds.surplus", "of another number of descriptors than it expects it takes none, answers an error, and closes them", true, fdsSurplus},
		{"fds.malformed", "packets that are malformed, or of no known type, are dropped with their descriptors, and the channel goes on", true, fdsMalformed},
		{"fds.unclaimed", "a Give that no call names is refused after 10 seconds, and its descriptors are closed", false, fdsUnclaimed},
		{"fds.leak", "after many openings it has as many descriptors open as before", true, fdsLeak},
		{"streams", "many streams at once all come out whole", true, streamsCheck},

		{"stdin", "what the far peer sends is the child's stdin, and its end ends that", true, stdinCheck},
		{"stdin.exit", "a child that exits, or closes its stdin, ends no sink", true, stdinExit},
		{"logs.all", "Logs gives every line with its end, the last lines, and what comes behind a cursor", true, logsAll},
		{"logs.follow", "Logs that follow come to their end when the stream does", true, logsFollow},

		{"console.keys", "what a viewer types comes to the child once, and is acknowledged", true, consoleKeys},
		{"console.size", "Resize sets the terminal's window size", true, consoleSize},
		{"console.frames", "a malformed frame ends its viewer's connection and nothing else", true, consoleFrames},
		{"console.reopen", "a child that closes its terminal and opens it again goes on, until its exit", true, consoleReopen},

		{"metrics", "Stat tells the numbers that the description declares, and no others, and a count never falls; if the sink says exact, in the next process neither", true, metricsCheck},
		{"log", "what it writes to its log is short, however much goes through it", true, logCheck},
	}
}
