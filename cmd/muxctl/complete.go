package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/muxd/muxd/control/controlpb"
)

// completeChildren completes names and ids of children.
func (a *app) completeChildren(c *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	m, err := a.muxd()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(c.Context(), time.Second)
	defer cancel()
	resp, err := m.API.List(ctx, &controlpb.ListRequest{All: true})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []cobra.Completion
	for _, r := range resp.Children {
		what := stateText(r) + ": " + commandOf(r, 40)
		out = append(out, cobra.CompletionWithDesc(r.Name, what))
		if r.Id != r.Name {
			out = append(out, cobra.CompletionWithDesc(r.Id, what))
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}
