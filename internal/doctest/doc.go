// Package doctest has no code, only tests: they run what README.md shows, and compare what the documents say with what the
// code has.
//
// A block of README.md that begins with ```console is run. A line "$ COMMAND" is run by bash(1), on a terminal of its
// own, all in one directory; lines "> MORE" continue it. What follows is what it prints, compared line by line:
//
//   - "..." within a line stands for any text, also none; a line that is only "..." stands for any number of lines.
//   - Runs of blanks count as one, and blanks at the end of a line do not count, so that the columns of a table may be
//     of another width.
//   - A command under which nothing stands prints nothing; where only "..." stands it is not looked at.
//   - A command that fails must be followed by "$ echo $?", which tells the status of the one before.
//
// The blocks share one muxd that runs with config.toml; those that begin with ```console plugin have another, which
// finds the plugin that README.md shows as its only Go program.
package doctest
