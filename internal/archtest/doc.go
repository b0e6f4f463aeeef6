// Package archtest has no code of its own. Its tests hold the tree to the rules that a compiler does not know: who may
// import whom, and what may not be written where, each with its reason.
package archtest
