//go:build 386 || arm

package keeper

import "golang.org/x/sys/unix"

// The calls without 32 in their names take ids of 16 bits here.
const (
	sysSetgroups = unix.SYS_SETGROUPS32
	sysSetresgid = unix.SYS_SETRESGID32
	sysSetresuid = unix.SYS_SETRESUID32
)
