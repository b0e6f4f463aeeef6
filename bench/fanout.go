package main

import (
	"context"
	"fmt"
)

const branches = 4

// fourCopies is why there is a bound to what copying can save.
const fourCopies = "what goes into the page cache is copied once for each file, whoever does it, and on a tmpfs the pages for that are most of the cost: " +
	"the limits do that and nothing else. A sink behind a branch also reads it for itself, in " +
	"order to append, which splice(2) cannot, so that there are two copies for each file"

// fanoutTrials are about one stream that goes into several files.
func (b *bench) fanoutTrials() []*trial {
	var all []*trial
	for _, s := range shapes[:2] {
		atLeast, cpu := 2.0, 0.5
		if s.name == "lines" {
			atLeast, cpu = 1, 0.4
		}
		into := func(name string, r role, run func(ctx context.Context, f *flow, outs []string) (values, error)) contender {
			return contender{name: name, role: r, run: func(ctx context.Context) (values, error) {
				f, err := b.newFlow(s)
				if err != nil {
					return nil, err
				}
				defer f.close()
				f.blocks = s.blocks(b.bytes / 2) // four files of it
				var outs []string
				for i := range branches {
					outs = append(outs, f.path(fmt.Sprintf("out%d", i)))
				}
				v, err := run(ctx, f, outs)
				if err != nil {
					return nil, err
				}
				for i := range outs {
					if err := f.same(fmt.Sprintf("out%d", i), plain); err != nil {
						return nil, err
					}
				}
				return v, nil
			}}
		}
		all = append(all, &trial{name: fmt.Sprintf("fan-out to %d files, %s", branches, s.name), contenders: []contender{
			into("muxd", subject, func(ctx context.Context, f *flow, outs []string) (values, error) {
				var specs []string
				for _, path := range outs {
					specs = append(specs, "file:"+path+",format=raw")
				}
				return f.muxed(ctx, specs...)
			}),
			into("tee", peer, func(ctx context.Context, f *flow, outs []string) (values, error) {
				return f.piped(ctx, "out0", append([]string{"tee"}, outs[1:]...)...)
			}),
			into("read and write to each", limit, func(ctx context.Context, f *flow, outs []string) (values, error) {
				return f.piped(ctx, "", append([]string{f.self, "limit", "copy", "1ms"}, outs...)...)
			}),
			into("tee and splice into each", limit, func(ctx context.Context, f *flow, outs []string) (values, error) {
				return f.piped(ctx, "", append([]string{f.self, "limit", "splice", "1ms"}, outs...)...)
			}),
		}, lines: []line{
			{metric: speed, against: "tee", target: atLeast, unmet: fourCopies},
			{metric: cpuCost, against: "tee", target: cpu, atMost: true, unmet: fourCopies},
		}})
	}
	return all
}
