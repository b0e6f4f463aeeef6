package main

import (
	"bufio"
	"bytes"
	"io"
)

// plain takes nothing apart.
func plain(r io.Reader) io.Reader { return r }

// records is a reader that gives the texts of a log's records.
type records struct {
	in   *bufio.Reader
	text func(record []byte) []byte // of a record with its newline
	rest []byte
}

func (r *records) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		record, err := r.in.ReadSlice('\n')
		if err != nil && (err != io.EOF || len(record) > 0) {
			return 0, io.ErrUnexpectedEOF // a record without its end, or longer than any of ours
		}
		if err != nil {
			return 0, err
		}
		r.rest = r.text(record)
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// fromCRI gives the texts of "TIME STREAM TAG TEXT" records, those tagged P without their newlines.
func fromCRI(r io.Reader) io.Reader {
	return &records{in: bufio.NewReaderSize(r, big), text: func(record []byte) []byte {
		f := bytes.SplitN(record, []byte{' '}, 4)
		if len(f) < 4 {
			return record // the comparison says that it is wrong
		}
		if f[2][0] == 'P' {
			return bytes.TrimSuffix(f[3], []byte{'\n'})
		}
		return f[3]
	}}
}

// fromTAI64N gives the texts of "@LABEL TEXT" records.
func fromTAI64N(r io.Reader) io.Reader { return stamped(r, " ") }

// fromISO gives the texts of "DATE TIME  TEXT" records.
func fromISO(r io.Reader) io.Reader { return stamped(r, "  ") }

func stamped(r io.Reader, separator string) io.Reader {
	return &records{in: bufio.NewReaderSize(r, big), text: func(record []byte) []byte {
		_, text, _ := bytes.Cut(record, []byte(separator))
		return text
	}}
}
