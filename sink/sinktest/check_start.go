package sinktest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/muxd/muxd/internal/spec"
	"github.com/muxd/muxd/sink/sinkpb"
)

func startCookie(s *session) error {
	h := s.unstarted()
	if err := h.launch(startAs{cookie: "none"}); err == nil {
		return errors.New("it shook hands without the magic cookie")
	} else if h.p.cmd == nil {
		return err
	}
	switch status := h.p.cmd.ProcessState.ExitCode(); {
	case h.p.line != "":
		return fmt.Errorf("it wrote the line %q to its stdout", h.p.line)
	case status < 0:
		return errors.New("it went on to run")
	case status == 0:
		return errors.New("it exited with status 0")
	case h.p.log.String() == "":
		return errors.New("it said nothing on stderr")
	}
	return nil
}

func startHandshake(s *session) error {
	h, err := s.host()
	if err != nil {
		return err
	}
	dir := filepath.Join(h.dir, "1")
	if filepath.Dir(h.p.socket) != dir && !strings.HasPrefix(h.p.socket, dir+"/") {
		return fmt.Errorf("its socket is %s, want one in PLUGIN_UNIX_SOCKET_DIR (%s)", h.p.socket, dir)
	}
	if st, err := os.Stat(h.p.socket); err != nil || st.Mode()&os.ModeSocket == 0 {
		return fmt.Errorf("there is no socket at %s", h.p.socket)
	}
	h.p.kill()
	<-h.p.mute
	if text := h.p.said.String(); text != "" {
		return fmt.Errorf("it wrote %.100q to its stdout after the handshake line: nobody reads there once the agent is replaced", text)
	}
	return nil
}

func startSlow(s *session) error {
	h := s.unstarted()
	stopped := make(chan struct{})
	err := h.start(s, startAs{started: func(p *process) {
		p.signal(unix.SIGSTOP)
		time.AfterFunc(300*time.Millisecond, func() {
			p.signal(unix.SIGCONT)
			close(stopped)
		})
	}})
	<-stopped
	return err
}

func startVersion(s *session) error {
	const none = "9999"
	h := s.unstarted()
	err := h.launch(startAs{versions: none})
	var other errVersion
	switch {
	case err == nil: // it answers with the version that it speaks, which muxd tells the user
		h.kill()
	case errors.As(err, &other) && string(other) == none:
		return fmt.Errorf("it says that it speaks version %s, which there is not", none)
	case errors.As(err, &other):
	case h.p.line != "":
		return err
	case !strings.Contains(h.p.log.String(), "version") || h.p.cmd.ProcessState.ExitCode() < 1:
		return fmt.Errorf("%w; want a handshake line with a version that it speaks, or an exit that says so on stderr", err)
	}
	if err := h.launch(startAs{versions: none + ",1"}); err != nil {
		return fmt.Errorf("offered the versions 1 and %s: %w", none, err)
	}
	return nil
}

func startShutdown(s *session) error {
	h, err := s.host()
	if err != nil {
		return err
	}
	ctx, cancel := s.soon()
	defer cancel()
	return h.p.shutdown(ctx, 5*time.Second) // muxd waits for 2, and this machine may be slow
}

// aLine says whether text is one line of text.
func aLine(text string) bool { return text != "" && !strings.Contains(text, "\n") }

func describeCheck(s *session) error {
	h, err := s.host()
	if err != nil {
		return err
	}
	d, err := h.describe(s)
	if err != nil {
		return err
	}
	again, err := h.describe(s)
	if err != nil {
		return err
	}
	carries := map[sinkpb.Stream]bool{}
	for _, st := range d.Carries {
		if carries[st] || st < sinkpb.Stream_STDIN || st > sinkpb.Stream_CONSOLE {
			return fmt.Errorf("carries: %v", d.Carries)
		}
		carries[st] = true
	}
	switch {
	case !proto.Equal(d, again):
		return fmt.Errorf("it answered %v, and then %v", d, again)
	case !spec.ValidName(d.Name):
		return fmt.Errorf("the name %q is none: want lower-case letters, digits and hyphens, as in a sink spec", d.Name)
	case len(d.Carries) == 0:
		return errors.New("it carries no stream")
	case carries[sinkpb.Stream_CONSOLE] && len(carries) > 1:
		return errors.New("it carries a console and other streams; a console is all three")
	case !aLine(d.Help):
		return errors.New("help is no line of text")
	}
	for _, st := range d.ByName {
		if !carries[st] {
			return fmt.Errorf("by_name has %v, and carries has not", st)
		}
	}
	seen := map[string]bool{}
	options := d.Options
	if d.Arg != nil {
		options = append([]*sinkpb.Option{d.Arg}, options...)
	}
	for i, opt := range options {
		isArg := d.Arg != nil && i == 0
		if err := goodOption(opt, isArg); err != nil {
			return fmt.Errorf("option %q: %w", opt.Name, err)
		}
		if !isArg && seen[opt.Name] {
			return fmt.Errorf("option %q is there twice", opt.Name)
		}
		seen[opt.Name] = seen[opt.Name] || !isArg
	}
	return goodMetrics(d.Metrics)
}

// goodOption says what is wrong with an option's declaration.
func goodOption(w *sinkpb.Option, isArg bool) error {
	if w.Type < sinkpb.Option_STRING || w.Type > sinkpb.Option_PATH {
		return fmt.Errorf("there is no type %v", w.Type)
	}
	o := asOption(w)
	switch {
	case !spec.ValidName(w.Name) && !isArg:
		return errors.New("its name cannot stand in a spec: want lower-case letters, digits and hyphens")
	case w.Type == sinkpb.Option_ENUM && len(w.Values) == 0:
		return errors.New("it is an ENUM without values")
	case !aLine(w.Help):
		return errors.New("its help is no line of text")
	case w.Required && w.Default != "":
		return errors.New("it is required, and has a default")
	case w.Default == "":
		return nil
	}
	_, err := o.Parse(w.Default)
	return err
}

// asOption is the declaration in the form that the grammar of specs has.
func asOption(w *sinkpb.Option) spec.Option {
	return spec.Option{
		Name: w.Name, Type: spec.Type(w.Type), Default: w.Default, Help: w.Help, Values: w.Values, Required: w.Required,
	}
}
