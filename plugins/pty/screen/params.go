package screen

// params are the parameters of a control sequence.
type params struct {
	mark  byte // one of < = > ?, or 0
	n     []int
	sub   []bool // the parameter of that number stands behind a colon
	inter string

	room    [paramsMost]int
	roomSub [paramsMost]bool
}

// paramsMost is how many parameters count, and paramMost the highest value.
const (
	paramsMost = 32
	paramMost  = 65535
)

func (p *params) markText() []byte {
	if p.mark == 0 {
		return nil
	}
	return []byte{p.mark}
}

// parse reads what stands between CSI and its final byte. Parameters that are not there are -1.
func (p *params) parse(seq []byte) {
	p.mark, p.inter = 0, ""
	if len(seq) > 0 && seq[0] >= '<' && seq[0] <= '?' {
		p.mark, seq = seq[0], seq[1:]
	}
	n, sub, k := -1, false, 0
	add := func() {
		if k < paramsMost {
			p.room[k], p.roomSub[k] = n, sub
			k++
		}
		n = -1
	}
	for i, b := range seq {
		switch {
		case b >= '0' && b <= '9':
			n = min(max(n, 0)*10+int(b-'0'), paramMost)
			continue
		case b == ';' || b == ':':
			add()
			sub = b == ':'
			continue
		case b < 0x30:
			p.inter = string(seq[i:])
		}
		break
	}
	add()
	p.n, p.sub = p.room[:k], p.roomSub[:k]
}

// at is parameter i, or otherwise where it is absent.
func (p *params) at(i, otherwise int) int {
	if i >= len(p.n) || p.n[i] < 0 {
		return otherwise
	}
	return p.n[i]
}

// count is parameter i where 0 and absent mean 1.
func (p *params) count(i int) int { return max(p.at(i, 1), 1) }
