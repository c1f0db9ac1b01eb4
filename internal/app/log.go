package app

import (
	"bytes"
	"io"
	"log/slog"
	"sync"
)

// NewLog returns the log of every host: one JSON object per line, with the keys that Lambda reads.
func NewLog(w io.Writer, level slog.Level) *slog.Logger {
	return slog.New(slog.NewJSONHandler(renaming{w}, &slog.HandlerOptions{Level: level}))
}

// renaming renames time to timestamp and msg to message. slog writes a record in one call, with these members first.
// ReplaceAttr would add a third to the cost of each record.
type renaming struct{ io.Writer }

func (r renaming) Write(record []byte) (int, error) {
	start, rest, _ := bytes.Cut(record, []byte(`,"`+slog.MessageKey+`":`))
	line, _ := lines.Get().(*[]byte)
	defer lines.Put(line)
	*line = append((*line)[:0], `{"timestamp":`...)
	*line = append(*line, bytes.TrimPrefix(start, []byte(`{"`+slog.TimeKey+`":`))...)
	*line = append(append(*line, `,"message":`...), rest...)
	if _, err := r.Writer.Write(*line); err != nil {
		return 0, err
	}
	return len(record), nil
}

// lines is a pool of buffers for records.
var lines = sync.Pool{New: func() any { return new([]byte) }} //nolint:gochecknoglobals // a pool of nothing but memory

// SplitLevels returns the writer of a log that writes records of WARN and ERROR to stderr, which the Functions host logs
// as Warning and Error. It logs stdout as Information.
func SplitLevels(stdout, stderr io.Writer) io.Writer { return severityWriter{stdout, stderr} }

type severityWriter struct{ stdout, stderr io.Writer }

// Write writes one record. Its level comes before all text that a caller can choose.
func (w severityWriter) Write(record []byte) (int, error) {
	if _, level, _ := bytes.Cut(record, []byte(`,"level":"`)); bytes.HasPrefix(level, []byte("WARN")) ||
		bytes.HasPrefix(level, []byte("ERROR")) {
		return w.stderr.Write(record)
	}
	return w.stdout.Write(record)
}
