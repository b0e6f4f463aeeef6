package main

import (
	"fmt"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// servers are the connections: one for all that goes to the same server in the same name.
type servers struct {
	mu   sync.Mutex
	open map[[2]string]jetstream.JetStream
}

// connect returns a connection, which comes back by itself where it breaks. With later it is one also where the server is away now.
func (s *servers) connect(to settings, later bool) (jetstream.JetStream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := [2]string{to.url, to.creds}
	if js := s.open[key]; js != nil {
		return js, nil
	}
	options := []nats.Option{nats.Name("muxd"), nats.MaxReconnects(-1), nats.RetryOnFailedConnect(later)}
	if to.creds != "" {
		options = append(options, nats.UserCredentials(to.creds))
	}
	nc, err := nats.Connect(to.url, options...)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", to.url, err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, err
	}
	if s.open == nil {
		s.open = map[[2]string]jetstream.JetStream{}
	}
	s.open[key] = js
	return js, nil
}
