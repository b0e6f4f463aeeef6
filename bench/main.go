package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// bench is what all trials share.
type bench struct {
	self  string // this program
	bin   string // where muxd and muxctl are
	dir   string // for what contenders write
	bytes int64  // that a child writes
	muxd  *muxd
}

func main() {
	if err := dispatch(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// dispatch is main, or what the program is to its contenders.
func dispatch(args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case "write":
			return writeMain(args[1:])
		case "limit":
			return limitMain(args[1:])
		case "echo":
			return echoMain()
		}
	}
	return run(args)
}

func run(args []string) (err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	bin := flags.String("bin", "bin", "directory of muxd and muxctl")
	dir := flags.String("dir", "/dev/shm", "directory for what is written; a tmpfs, for steady figures")
	only := flags.String("only", "", "run only the trials whose name this regular expression matches")
	rounds := flags.Int("rounds", 5, "timed rounds of each contender; the median counts")
	mib := flags.Int64("mib", 512, "MiB that a child writes")
	output := flags.String("o", "table", "table or json")
	plot := flags.String("plot", "", "also write a plot of the ratios to this SVG file, and one of cost against children beside it")
	list := flags.Bool("list", false, "name the trials, and run none")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q; -only REGEXP picks trials", flags.Arg(0))
	}
	if *output != "table" && *output != "json" {
		return fmt.Errorf("unknown output %q: want table or json", *output)
	}
	if *rounds < 1 || *mib < 1 {
		return errors.New("-rounds and -mib want at least 1")
	}
	pick, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	b := &bench{bytes: *mib << 20}
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	if b.bin, err = filepath.Abs(*bin); err != nil {
		return err
	}
	var trials []*trial
	for _, t := range b.trials() {
		if pick.MatchString(t.name) {
			trials = append(trials, t)
		}
	}
	if len(trials) == 0 {
		return fmt.Errorf("no trial matches %q; -list names them", *only)
	}
	if *list {
		for _, t := range trials {
			fmt.Println(t.name)
		}
		return nil
	}
	// Children that fork and leave are this process's then. It must not be the one thread that forked them that ends.
	runtime.LockOSThread()
	if err := beSubreaper(); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp(*dir, "muxd-bench"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if b.muxd, err = startMuxd(ctx, b.bin, filepath.Join(b.dir, "m")); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.muxd.stop()) }()

	var results []*result
	for _, t := range trials {
		results = append(results, t.run(ctx, *rounds, progress))
		reapAll()
		if ctx.Err() != nil {
			break
		}
	}
	progress("")
	rows := tabulate(results)
	if *plot != "" {
		if err := os.WriteFile(*plot, plotRatios(rows), 0o644); err != nil {
			return err
		}
		for _, r := range results {
			if svg := plotLoad(r); svg != nil {
				if err := os.WriteFile(strings.TrimSuffix(*plot, ".svg")+"-load.svg", svg, 0o644); err != nil {
					return err
				}
			}
		}
	}
	if *output == "json" {
		return printJSON(os.Stdout, rows, results)
	}
	return printTable(os.Stdout, rows, results)
}

// progress shows one line on a terminal, in place of the one before.
func progress(text string) {
	if _, err := unix.IoctlGetTermios(2, unix.TCGETS); err == nil {
		fmt.Fprintf(os.Stderr, "\r\033[K%s", text)
	}
}

// trials are all there are, in the table's order.
func (b *bench) trials() []*trial {
	var all []*trial
	for _, of := range [][]*trial{b.fileTrials(), b.fanoutTrials(), b.socketTrials(), b.consoleTrials(), b.echoTrials(), b.spawnTrials(), b.idleTrials(), b.killTrials()} {
		all = append(all, of...)
	}
	return all
}
