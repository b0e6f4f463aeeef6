// Package keeper is the process that is parent of everything, and the agent's way to speak with it.
//
// [Run] is the keeper: it spawns and reaps, stores descriptors under names, holds the listeners of
// control.sock and fd.sock, and starts the agent again whenever it dies. It decides nothing and reads no
// stream. [Client] is the agent's half. Between the two stands keeperpb, a message a packet on a SEQPACKET
// socket pair that the agent inherits; see wire.go for how messages travel that are larger than a packet.
//
// What outlives an agent: children, their exit records until Forget, held descriptors, watches, and both
// listeners. A new agent learns of all of it with List.
//
// Locks: keeper.mu guards every record, and the only wait that takes a status is done under it. A pid in a
// record that is not marked as reaped is therefore still that process (a zombie keeps its pid, wait(2)), and
// a signal sent under the lock cannot hit another.
package keeper
