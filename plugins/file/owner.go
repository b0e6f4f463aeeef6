package file

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// owner is whose the files are that are made; nil: the plugin's user's.
type owner struct {
	text     string // as it was given
	uid, gid int
}

// parseOwner looks up USER, USER:GROUP or :GROUP, names or numbers. Without a group it is the user's own; of a number that is
// nobody's it stays the plugin's.
func parseOwner(text string) (*owner, error) {
	if text == "" {
		return nil, nil
	}
	o := &owner{text: text, uid: -1, gid: -1}
	name, group, two := strings.Cut(text, ":")
	if name == "" && group == "" || two && group == "" {
		return nil, fmt.Errorf("owner=%s: want USER, USER:GROUP or :GROUP", text)
	}
	if name != "" {
		u, err := user.Lookup(name)
		if _, numErr := strconv.ParseUint(name, 10, 31); err != nil && numErr == nil {
			if u, err = user.LookupId(name); err != nil {
				u, err = &user.User{Uid: name, Gid: "-1"}, nil
			}
		}
		if err != nil {
			return nil, fmt.Errorf("owner=%s: there is no user %q", text, name)
		}
		if o.uid, err = strconv.Atoi(u.Uid); err != nil {
			return nil, fmt.Errorf("owner=%s: user %s has the number %q", text, name, u.Uid)
		}
		if o.gid, err = strconv.Atoi(u.Gid); err != nil {
			return nil, fmt.Errorf("owner=%s: the group of user %s has the number %q", text, name, u.Gid)
		}
	}
	if group != "" {
		id, err := strconv.ParseUint(group, 10, 31)
		if g, lookErr := user.LookupGroup(group); lookErr == nil {
			id, err = strconv.ParseUint(g.Gid, 10, 31)
		}
		if err != nil {
			return nil, fmt.Errorf("owner=%s: there is no group %q", text, group)
		}
		o.gid = int(id)
	}
	if me := os.Geteuid(); me != 0 && o.uid >= 0 && o.uid != me {
		return nil, fmt.Errorf("owner=%s: user id %d may not give files to others; start muxd as root, or leave the user out", text, me)
	}
	return o, nil
}

// give makes a file that was just made the owner's.
func (o *owner) give(fd int) error {
	if o == nil {
		return nil
	}
	if err := unix.Fchown(fd, o.uid, o.gid); err != nil {
		return fmt.Errorf("owner=%s: %w", o.text, err)
	}
	return nil
}

// giveDirs makes the directories the owner's that were just made: those below top on the way to dir.
func (o *owner) giveDirs(dir, top string) error {
	if o == nil {
		return nil
	}
	for ; len(dir) > len(top); dir = filepath.Dir(dir) {
		if err := os.Lchown(dir, o.uid, o.gid); err != nil {
			return fmt.Errorf("owner=%s: %w", o.text, err)
		}
	}
	return nil
}
