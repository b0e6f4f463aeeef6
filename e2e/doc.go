// Package e2e tests muxd through its real binaries. A script in testdata reads as a session at a shell does, in the
// language of [github.com/rogpeppe/go-internal/testscript]; every script has a muxd of its own, or several one after
// the other, under $XDG_RUNTIME_DIR, and $MUXD_SOCKET names its control socket.
//
// A line "# needs: PROGRAM... root grpcio container:RUNTIME" at the top of a script names what it cannot do without, the last
// Debian's gRPC for Python, and an OCI runtime that can run a container on this machine; the condition [root] is for single lines.
//
// Besides testscript's own commands there are:
//
//	muxd-up [-nofile N] [-devpts N] [-cgroup VARIABLE] [-program MUXD] [CONFIG]
//		starts muxd in the background, and returns once its control socket accepts. With -nofile it may have N open
//		files, with -devpts it sees a private /dev/pts with N terminals. With -cgroup it is in a cgroup that was delegated to
//		it, the one that the variable names, or a new one, which it names then. With -program it is another muxd than the one in the
//		PATH; beside that one are next/muxd, another version, and broken/muxd, which does not start. What this one logs is
//		in muxd.log. $E2E_BINARY is this test's binary, which is a sink plugin too.
//	muxd-down
//		sends it SIGTERM, waits for it to end with status 0, and checks that its runtime directory is gone, that
//		no temporary file and no process of it is left, and that its log tells of no panic and no data race.
//	muxd-gone
//		the same for a muxd that has been told to end already.
//	muxd-signal SIGNAL
//		sends a signal to its keeper.
//	muxd-kill
//		kills its keeper and agent in one moment, neither of which sees the other die. The next muxd-up follows them, and
//		what is logged goes on in muxd.log.
//	muxd-followed
//		stops a muxd whose keeper is another process by now than the one that was started, and checks that nothing is left.
//	kill-client SIGNAL REGEXP
//		sends a signal to the one muxctl of the script whose arguments match REGEXP.
//	status N COMMAND...
//		runs a command that must exit with status N. As after exec, stdout and stderr are what it wrote.
//	waitfor TIMEOUT COMMAND...
//		repeats a command until it succeeds (with "! waitfor", fails), and fails after TIMEOUT.
//	keys FILE GOLDEN
//		compares the names of all fields in a JSON document, or in one for each line, with a list of them.
//	baseline, leaks
//		count the open files of keeper, agent and plugins and the agent's goroutines; leaks fails where there
//		are more than at baseline and does not change.
//	tmpfs DIR SIZE
//		mounts a small file system on DIR, until the end of the script.
//	consoles N
//		spawns N children that do nothing, each on a console, by the names idle0 and so on, and checks how much memory the plugin
//		has then. Where the machine does not have so many terminals the script is skipped.
//	bundle [-terminal] DIR COMMAND...
//		makes an OCI bundle in DIR whose process is COMMAND, on a terminal if wanted, in a root file system with a
//		static busybox.
//	module [-X NAME=VALUE] DIR EXECUTABLE
//		builds the program of a Go module of its own, or one of this module, with a variable set by the linker.
//	module -test DIR
//		runs the tests of such a module.
//	tty NAME run ROWSxCOLS COMMAND...
//		runs a command in a session of its own, on a new terminal that has the NAME from then on.
//	tty NAME send TEXT
//		types TEXT, which may hold the escapes of a Go string.
//	tty NAME expect REGEXP
//		waits until REGEXP appears in what has been shown since the last match.
//	tty NAME seen REGEXP
//		looks at everything that has been shown; with "!" REGEXP must not be in it.
//	tty NAME resize ROWSxCOLS
//		changes the terminal's size, of which the kernel tells the foreground group by SIGWINCH.
//	tty NAME restored
//		checks that the terminal's modes are what they were before the command, after exit too.
//	tty NAME hangup
//		closes the terminal, as a lost connection does.
//	tty NAME exit [N]
//		waits for the command to end, with status N. After a hangup the status is open: the SIGHUP may come before or
//		after the end of input.
package e2e
