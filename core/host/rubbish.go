package host

import (
	"context"
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// What a plugin says is shown to people, on their terminals, and written down. So texts of it are plain and short before anybody here has
// them: without what moves a terminal, and cut at textMost bytes.

const textMost = 4 << 10

// plainText is s as it is shown.
func plainText(s string) string {
	if len(s) > textMost {
		end := textMost
		for end > textMost-utf8.UTFMax && !utf8.RuneStart(s[end]) {
			end--
		}
		s = s[:end] + "..."
	}
	if !strings.ContainsFunc(s, unfit) {
		return s
	}
	return strings.Map(func(r rune) rune {
		if unfit(r) {
			return ' '
		}
		return r
	}, s)
}

// unfit says whether r does something else than to be seen. Marks that turn the direction of a text are among what does.
func unfit(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) }

// plainMessage makes every text in m plain, and drops what is not known here.
func plainMessage(m protoreflect.Message) {
	m.SetUnknown(nil)
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.IsMap(): // there is none in what plugins say
		case fd.IsList():
			list := v.List()
			for i := range list.Len() {
				switch fd.Kind() {
				case protoreflect.StringKind:
					list.Set(i, protoreflect.ValueOfString(plainText(list.Get(i).String())))
				case protoreflect.MessageKind:
					plainMessage(list.Get(i).Message())
				}
			}
		case fd.Kind() == protoreflect.StringKind:
			m.Set(fd, protoreflect.ValueOfString(plainText(v.String())))
		case fd.Kind() == protoreflect.MessageKind:
			plainMessage(v.Message())
		}
		return true
	})
}

// plainError is err with a plain text.
func plainError(err error) error {
	if s, ok := status.FromError(err); ok && err != nil {
		return status.Error(s.Code(), plainText(s.Message()))
	}
	return err
}

// plainCall makes the answer to a call plain.
func plainCall(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if err := call(ctx, method, req, reply, cc, opts...); err != nil {
		return plainError(err)
	}
	if m, ok := reply.(proto.Message); ok {
		plainMessage(m.ProtoReflect())
	}
	return nil
}

// plainStream makes what comes on a stream plain.
func plainStream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, begin grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := begin(ctx, desc, cc, method, opts...)
	return plainReceiver{s}, err
}

type plainReceiver struct{ grpc.ClientStream }

func (r plainReceiver) RecvMsg(m any) error {
	if err := r.ClientStream.RecvMsg(m); err != nil {
		return plainError(err)
	}
	if m, ok := m.(proto.Message); ok {
		plainMessage(m.ProtoReflect())
	}
	return nil
}
