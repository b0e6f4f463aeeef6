package agent

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"

	"github.com/muxd/muxd/core/keeper/keeperpb"
)

// identity is a user to run a child as.
type identity struct {
	cred                *keeperpb.Credential
	name, home, uidText string
}

// lookupUser resolves NAME or UID, with :GROUP or :GID. nil for the empty string: muxd's own user. Supplementary groups are
// the user's of /etc/group; a number that no name belongs to has none.
func lookupUser(s string) (*identity, error) {
	if s == "" {
		return nil, nil
	}
	name, group, hasGroup := strings.Cut(s, ":")
	u, err := user.Lookup(name)
	if err != nil {
		if u, err = user.LookupId(name); err != nil {
			uid, numErr := strconv.ParseUint(name, 10, 32)
			if numErr != nil {
				return nil, fmt.Errorf("user %q: there is none of that name or number", name)
			}
			u = &user.User{Uid: strconv.FormatUint(uid, 10), Gid: strconv.FormatUint(uid, 10), HomeDir: "/"}
		}
	}
	id := &identity{cred: &keeperpb.Credential{}, name: u.Username, home: u.HomeDir, uidText: u.Uid}
	if id.cred.Uid, err = number(u.Uid); err != nil {
		return nil, err
	}
	if id.cred.Gid, err = number(u.Gid); err != nil {
		return nil, err
	}
	if hasGroup {
		g, err := user.LookupGroup(group)
		if err != nil {
			if g, err = user.LookupGroupId(group); err != nil {
				g = &user.Group{Gid: group}
			}
		}
		if id.cred.Gid, err = number(g.Gid); err != nil {
			return nil, fmt.Errorf("group %q: there is none of that name or number", group)
		}
	}
	if u.Username != "" {
		ids, err := u.GroupIds()
		if err != nil {
			return nil, fmt.Errorf("groups of user %s: %w", u.Username, err)
		}
		for _, text := range ids {
			n, err := number(text)
			if err != nil {
				return nil, err
			}
			id.cred.Groups = append(id.cred.Groups, n)
		}
	}
	if os.Geteuid() != 0 && int(id.cred.Uid) != os.Geteuid() {
		return nil, errors.New("only a muxd of root can run children as other users")
	}
	if os.Geteuid() != 0 {
		return nil, nil // setgroups(2) needs root, and nothing would change
	}
	return id, nil
}

func number(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err
}

// environment adds to env what a program expects to know of its user, where env does not say.
func (id *identity) environment(env [][]byte) [][]byte {
	if id == nil {
		return env
	}
	name := id.name
	if name == "" {
		name = id.uidText
	}
	for _, kv := range [][2]string{{"HOME", id.home}, {"USER", name}, {"LOGNAME", name}} {
		if !hasVar(env, kv[0]) {
			env = append(env, []byte(kv[0]+"="+kv[1]))
		}
	}
	return env
}

func hasVar(env [][]byte, name string) bool {
	for _, e := range env {
		if strings.HasPrefix(string(e), name+"=") {
			return true
		}
	}
	return false
}
