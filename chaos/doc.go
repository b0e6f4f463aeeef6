// Package chaos kills muxd's processes, one by one and all the time, while children write, and then counts every byte.
// It has only tests: make chaos runs the long one.
package chaos
