package sinktest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/muxd/muxd/sink/sinkpb"
)

// want is nil where err has one of the codes.
func want(what string, err error, wanted ...codes.Code) error {
	got := status.Code(err)
	var names []string
	for _, c := range wanted {
		if got == c {
			return nil
		}
		names = append(names, c.String())
	}
	return fmt.Errorf("%s answered %v, want %s", what, answer(err), strings.Join(names, " or "))
}

// answer is an answer for people.
func answer(err error) string {
	if err == nil {
		return "OK"
	}
	return err.Error()
}

// judge makes the Check call for the target, with change made to its spec.
func (s *session) judge(h *host, change func(*sinkpb.Spec)) (*sinkpb.CheckResponse, *place, error) {
	p, err := s.place(s.target)
	if err != nil {
		return nil, nil, err
	}
	w := s.target.wire(p)
	if change != nil {
		change(w)
	}
	ctx, cancel := s.soon()
	defer cancel()
	resp, err := h.p.sinks.Check(ctx, &sinkpb.CheckRequest{Spec: w, Child: child("check"), Streams: s.target.streams()})
	return resp, p, err
}

func optionsUnknown(s *session) error {
	h, err := s.host()
	if err != nil {
		return err
	}
	const name = "no-such-option"
	_, _, err = s.judge(h, func(w *sinkpb.Spec) { w.Options[name] = "1" })
	if err := want("Check with the option "+name, err, codes.InvalidArgument); err != nil {
		return err
	}
	if text := status.Convert(err).Message(); !strings.Contains(text, name) {
		return fmt.Errorf("the error %q does not name the option %s", text, name)
	}
	if s.desc.Arg == nil {
		_, _, err := s.judge(h, func(w *sinkpb.Spec) { w.Arg = "argument" })
		return want("Check with an argument, which the description has not,", err, codes.InvalidArgument)
	}
	return nil
}

// badValues are no values of the types.
var badValues = map[sinkpb.Option_Type]string{
	sinkpb.Option_INT: "twelve", sinkpb.Option_BOOL: "perhaps", sinkpb.Option_DURATION: "soon", sinkpb.Option_SIZE: "much",
	sinkpb.Option_ENUM: "no-such-value", sinkpb.Option_PATH: "",
}

func optionsBad(s *session) error {
	h, err := s.host()
	if err != nil {
		return err
	}
	tried := 0
	for _, opt := range s.desc.Options {
		value, ok := badValues[opt.Type]
		if !ok {
			continue
		}
		tried++
		_, _, err := s.judge(h, func(w *sinkpb.Spec) { w.Options[opt.Name] = value })
		if err := want(fmt.Sprintf("Check with %s=%s (%v)", opt.Name, value, opt.Type), err, codes.InvalidArgument); err != nil {
			return err
		}
	}
	for _, opt := range s.desc.Options {
		if !opt.Required {
			continue
		}
		tried++
		_, _, err := s.judge(h, func(w *sinkpb.Spec) { delete(w.Options, opt.Name) })
		if err := want("Check without "+opt.Name+", which is required,", err, codes.InvalidArgument); err != nil {
			return err
		}
	}
	if s.desc.Arg.GetRequired() {
		tried++
		_, _, err := s.judge(h, func(w *sinkpb.Spec) { w.Arg = "" })
		if err := want("Check without the argument, which is required,", err, codes.InvalidArgument); err != nil {
			return err
		}
	}
	if tried == 0 {
		return notApplicable("it has no option that could have a bad value")
	}
	return nil
}

func optionsPure(s *session) error {
	h, err := s.host()
	if err != nil {
		return err
	}
	p, err := s.place(s.target)
	if err != nil {
		return err
	}
	before := tree(p.dir)
	ask := func() (*sinkpb.CheckResponse, error) {
		ctx, cancel := s.soon()
		defer cancel()
		return h.p.sinks.Check(ctx, &sinkpb.CheckRequest{Spec: s.target.wire(p), Child: child("check"), Streams: s.target.streams()})
	}
	first, err := ask()
	if err != nil {
		return fmt.Errorf("the call Check: %w", err)
	}
	second, err := ask()
	if err != nil {
		return fmt.Errorf("the call Check: %w", err)
	}
	if !proto.Equal(first, second) {
		return fmt.Errorf("the call Check answered %v, and then %v", first, second)
	}
	if after := tree(p.dir); after != before {
		return fmt.Errorf("the call Check made something: there is %s", after)
	}
	return nil
}

// tree is the names in dir.
func tree(dir string) string {
	var names []string
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		names = append(names, e.Name())
		below, _ := os.ReadDir(dir + "/" + e.Name())
		for _, b := range below {
			names = append(names, e.Name()+"/"+b.Name())
		}
	}
	return strings.Join(names, " ")
}

func callsUnknown(s *session) error {
	h, err := s.host()
	if err != nil {
		return err
	}
	const id = "sinktest-no-such-opening"
	ctx, cancel := s.soon()
	defer cancel()
	_, err = h.p.sinks.End(ctx, &sinkpb.EndRequest{Opening: id})
	if err := want("End", err, codes.NotFound); err != nil {
		return err
	}
	_, err = h.p.sinks.Cut(ctx, &sinkpb.CutRequest{Opening: id})
	if err := want("Cut", err, codes.NotFound); err != nil {
		return err
	}
	_, err = h.p.sinks.Stat(ctx, &sinkpb.StatRequest{Opening: id})
	if err := want("Stat", err, codes.NotFound, codes.Unimplemented); err != nil {
		return err
	}
	_, err = h.p.sinks.Leave(ctx, &sinkpb.LeaveRequest{Opening: id, Stream: sinkpb.Stream_STDOUT})
	if err := want("Leave", err, codes.NotFound, codes.Unimplemented); err != nil {
		return err
	}
	_, err = h.p.sinks.Rotate(ctx, &sinkpb.RotateRequest{Opening: id})
	if err := want("Rotate", err, codes.NotFound, codes.Unimplemented); err != nil {
		return err
	}
	_, err = h.p.sinks.Resize(ctx, &sinkpb.ResizeRequest{Opening: id, Size: &sinkpb.Size{Rows: 1, Cols: 1}})
	if err := want("Resize", err, codes.NotFound, codes.Unimplemented); err != nil {
		return err
	}
	_, err = h.p.sinks.Forget(ctx, &sinkpb.ForgetRequest{Opening: id})
	if err := want("Forget", err, codes.OK); err != nil {
		return err
	}
	list, err := h.p.sinks.Openings(ctx, &sinkpb.OpeningsRequest{})
	if err != nil {
		return fmt.Errorf("the call Openings: %w", err)
	}
	if len(list.Openings) > 0 {
		return fmt.Errorf("the call Openings answers %v, and there are none", list.Openings)
	}
	return nil
}

func callsTicket(s *session) error {
	h, err := s.host()
	if err != nil {
		return err
	}
	p, err := s.place(s.target)
	if err != nil {
		return err
	}
	ctx, cancel := s.soon()
	defer cancel()
	_, err = h.p.sinks.Open(ctx, &sinkpb.OpenRequest{
		Opening: names.next(), Spec: s.target.wire(p), Child: child("x"), Streams: s.target.streams(), Ticket: []byte("short"),
	})
	return want("Open with a ticket of 5 bytes", err, codes.InvalidArgument)
}

func callsAgain(s *session) error {
	h, o, err := s.openWritten(&lines{}, 1000)
	if err != nil {
		return err
	}
	ctx, cancel := s.soon()
	defer cancel()
	if err := o.openedAgain(ctx); err != nil {
		return fmt.Errorf("the second Open: %w", err)
	}
	list, err := h.p.sinks.Openings(ctx, &sinkpb.OpeningsRequest{})
	if err != nil {
		return fmt.Errorf("the call Openings: %w", err)
	}
	if len(list.Openings) != 1 || list.Openings[0] != o.id {
		return fmt.Errorf("the call Openings answers %v, and %s is open", list.Openings, o.id)
	}
	rest := &lines{}
	discard(rest, 1000)
	if err := s.write(o, first(rest, 1000), 0); err != nil {
		return err
	}
	if err := o.exit(ctx); err != nil {
		return err
	}
	if err := o.sayEnd(ctx); err != nil {
		return fmt.Errorf("the second: %w", err)
	}
	for range 2 {
		if err := o.sayCut(ctx); err != nil {
			return err
		}
	}
	if err := s.finished(o, &lines{}); err != nil {
		return err
	}
	if err := o.sayForget(ctx); err != nil {
		return fmt.Errorf("the second: %w", err)
	}
	return nil
}

// openedAgain repeats the Open: of pipes with other copies of the far ends.
func (o *opening) openedAgain(ctx context.Context) error {
	if o.wiring == sinkpb.Wiring_PTY { // the near end has been given
		return o.call(ctx, o.request(make([]byte, 16)))
	}
	var far []int
	for _, st := range o.streams {
		far = append(far, o.far[st].Int())
	}
	return o.h.p.give(ctx, far, func(ctx context.Context, ticket []byte) error { return o.call(ctx, o.request(ticket)) })
}

func callsWatch(s *session) error {
	h, o, err := s.openWritten(&lines{}, 500)
	if err != nil {
		return err
	}
	ctx, cancel := s.soon()
	defer cancel()
	if err := o.exit(ctx); err != nil {
		return err
	}
	if err := o.flushed(ctx, true); err != nil {
		return err
	}
	before := h.p.events
	if err := h.p.watch(ctx); err != nil {
		return fmt.Errorf("a second Watch: %w", err)
	}
	if err := before.aborted(ctx); err != nil {
		return err
	}
	t := h.p.events.of(key{o.id, s.target.out})
	if !t.eof || !t.flushed {
		return errors.New("a second Watch did not tell before its Snapshot that the stream is flushed")
	}
	return s.finished(o, &lines{})
}
