package stage

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/muxd/muxd/internal/fd"
)

// adopt takes over what a predecessor that was killed has parked. Sources find their slots when they are added; a stage with
// bytes of one waits for it in left.
func (f *Fan) adopt(o Options) error {
	mem := o.Parked[parkFanState][0]
	delete(o.Parked, parkFanState)
	var err error
	if f.mem, err = mapFanMemory(mem); err != nil {
		return err
	}
	f.sources = make([]*FanSource, f.mem.used())
	for k := range f.sources {
		if key := f.mem.slot(k).key(); key == "" || o.Live != nil && !o.Live(key) {
			f.mem.clear(k)
			f.free = append(f.free, k)
		} else {
			f.known[key] = k
		}
	}
	for name, fds := range o.Parked {
		number, ok := strings.CutPrefix(name, parkFanStage)
		if !ok {
			continue
		}
		delete(o.Parked, name)
		i, err := strconv.Atoi(number)
		if err != nil || i < 0 || i >= fanStagesMost {
			fd.CloseAll(fds)
			return fmt.Errorf("a predecessor parked %q, which is no stage", name)
		}
		st, err := adoptStage(i, fds)
		if err != nil {
			return err
		}
		for len(f.all) <= i {
			f.all = append(f.all, nil)
		}
		f.all[i] = st
	}
	for i, st := range f.all {
		if st == nil { // it was made and never parked
			if st, err = newStage(i); err != nil {
				return err
			}
			f.all[i] = st
		}
		if b := f.mem.bound(i); st.n > 0 && b.slot >= 0 && b.slot < len(f.sources) && f.mem.slot(b.slot).key() != "" {
			f.left[b] = st
			continue
		}
		if err := st.shrink(0, f.null.Int()); err != nil {
			return err
		}
		f.mem.bind(i, binding{slot: -1})
		f.spare = append(f.spare, st)
	}
	return nil
}

// resume goes on with what a predecessor had begun of s, whose branches come again. Of a source that is new there is
// nothing. s.mu is held.
func (s *FanSource) resume(again []Branch) error {
	f := s.fan
	var lost []*branch
	for n := range BranchesMost {
		slot := s.slot.branch(n)
		key := slot.key()
		if key == "" {
			continue
		}
		b := &branch{s: s, b: n, slot: slot, gone: make(chan struct{})}
		f.mu.Lock()
		for role, st := range []**stage{roleStage: &b.stage, roleQueue: &b.queue} {
			at := binding{s.k, n, role}
			*st = f.left[at]
			delete(f.left, at)
		}
		f.mu.Unlock()
		if i := slices.IndexFunc(again, func(a Branch) bool { return a.Key == key }); i >= 0 {
			b.Branch = again[i]
			s.branches = append(s.branches, b)
		} else {
			b.Key = key
			lost = append(lost, b)
		}
	}
	if err := s.finishMove(slices.Concat(s.branches, lost)); err != nil {
		return err
	}
	for _, b := range s.branches {
		b.finishMoving()
		if _, _, _, _, drops := b.slot.dropping(); drops {
			if err := b.dropping(); err != nil {
				return err
			}
		}
	}
	for _, b := range lost {
		if err := b.discard(); err != nil {
			return err
		}
		b.giveBack(&b.queue)
		b.giveBack(&b.stage)
		b.slot.free()
	}
	if s.slot.ended() {
		s.eof = true
	}
	return nil
}

// finishMove brings a chunk that was on the way into the stages of all to its end: where the first stage has some of it, the source has
// that no more, and it is copied into those that lack it. Otherwise there is none.
func (s *FanSource) finishMove(all []*branch) error {
	firstIndex, mask, moving := s.slot.first()
	if !moving {
		return nil
	}
	var first *branch
	var others []*branch
	for _, b := range all {
		switch {
		case b.b == firstIndex:
			first = b
		case mask>>b.b&1 == 1:
			others = append(others, b)
		}
	}
	if first == nil || first.stage.room() == 0 {
		s.slot.still()
		return nil
	}
	for _, b := range others {
		if b.stage == nil {
			b.stage = s.fan.take(binding{s.k, b.b, roleStage})
		}
		if b.stage == nil {
			return errStarved
		}
	}
	if err := s.tee(first, others); err != nil {
		return err
	}
	s.slot.commit(first.stage.n)
	return nil
}
