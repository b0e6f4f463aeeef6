package host

import (
	"fmt"

	"github.com/muxd/muxd/internal/protocols"
)

// speaks is the versions of the sink protocol that this host speaks. It is a variable for the linker (-X), so that a test can have a muxd
// of another time meet the plugins of this one.
var speaks = "1"

// Protocols is the versions of the sink protocol that this host speaks. Of those that a plugin speaks too the highest is taken.
func Protocols() protocols.Range { return protocols.Of(speaks) }

// Protocol is the version that was agreed on with the plugin.
func (p *Plugin) Protocol() int { return p.protocol }

// foreign says that a plugin speaks a version that this host does not, and who has to be updated.
func foreign(version int) error {
	update := "muxd"
	if version < Protocols().Oldest {
		update = "the plugin"
	}
	return fmt.Errorf("it speaks version %d of the sink protocol, and this muxd speaks %s; update %s", version, Protocols(), update)
}
