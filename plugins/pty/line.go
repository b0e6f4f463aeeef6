package pty

import "golang.org/x/sys/unix"

// lineMost is the longest line, without its end, that a terminal in canonical mode keeps for its reader (termios(3)): what is
// typed behind that is lost, up to the line's end.
const lineMost = 4095

// line counts the bytes of the line that is being typed, while the terminal is in canonical mode.
type line struct {
	n    int
	told bool // that it is too long
}

// typed says whether p makes a line too long for a terminal with these modes, once a line. It is called for all that comes to the plugin: what a viewer
// types on the master itself is not seen here.
func (l *line) typed(modes *unix.Termios, p []byte) (lost bool) {
	if modes.Lflag&unix.ICANON == 0 {
		*l = line{}
		return false
	}
	for _, b := range p {
		switch {
		case endsLine(modes, b), b != 0 && b == modes.Cc[unix.VKILL]:
			*l = line{}
		case b != 0 && b == modes.Cc[unix.VERASE]:
			l.n = max(0, l.n-1)
		default:
			l.n++
		}
		if l.n > lineMost && !l.told {
			l.told, lost = true, true
		}
	}
	return lost
}
