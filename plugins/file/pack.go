package file

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// How rotated files are compressed, and what their names end in.
const (
	packNone = ""
	packGzip = "gz"
	packZstd = "zst"
)

// packWindow bounds how much memory it takes to compress and to read what is compressed.
const packWindow = 1 << 20

// pack compresses the file at path into one beside it, which has its name only when all of it is on the disk.
func (fs *files) pack(path string, s settings) error {
	name := path + "." + s.retention.pack
	if err := fs.packInto(name+suffixPart, path, s.retention.pack); err != nil {
		os.Remove(name + suffixPart)
		return fmt.Errorf("compress %s: %w", path, err)
	}
	fs.step(stepPacked)
	if err := os.Rename(name+suffixPart, name); err != nil {
		return err
	}
	fs.step(stepNamed)
	return fs.syncDir(filepath.Dir(path))
}

func (fs *files) packInto(name, path, how string) (err error) {
	from, err := os.Open(path)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	fs.step(stepPacking)
	if err := likeness(to, from); err != nil {
		return err
	}
	w, err := packer(to, how)
	if err != nil {
		return err
	}
	if _, err := io.Copy(w, from); err != nil {
		return errors.Join(err, w.Close())
	}
	if err := w.Close(); err != nil {
		return err
	}
	return fs.fsync(to)
}

// likeness gives to the owner and the permissions of from.
func likeness(to, from *os.File) error {
	info, err := from.Stat()
	if err != nil {
		return err
	}
	if st := info.Sys().(*syscall.Stat_t); int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid() {
		if err := to.Chown(int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	return to.Chmod(info.Mode().Perm())
}

func packer(to io.Writer, how string) (io.WriteCloser, error) {
	if how == packGzip {
		return gzip.NewWriterLevel(to, gzip.DefaultCompression)
	}
	return zstd.NewWriter(to, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(packWindow))
}

// unpacker reads what a packer has written.
func unpacker(from io.Reader, how string) (io.ReadCloser, error) {
	if how == packGzip {
		return gzip.NewReader(from)
	}
	r, err := zstd.NewReader(from, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20))
	if err != nil {
		return nil, err
	}
	return r.IOReadCloser(), nil
}
