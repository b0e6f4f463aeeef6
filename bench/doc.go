// Command bench measures muxd against its peers doing the same work, in turn and in one run, and prints what came of it as
// ratios beside the targets. Every byte that a contender put out is compared with what the child wrote; the CPU time of
// every process that a contender needs counts, its daemons' too.
//
// The program is also what the contenders run: the children that write, echo or wait, and the loops that show what
// the kernel can do at most.
package main
