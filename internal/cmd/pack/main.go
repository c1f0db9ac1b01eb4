// Pack makes the zip files that are deployed:
//
//	pack OUT.zip FILE|NAME=FILE|DIRECTORY...
//
// A FILE is stored in the root under its own name, as data; NAME=FILE is stored there as an executable; the files of a
// DIRECTORY are stored under their paths below it, as data. Equal input makes equal bytes: entries are sorted and have one
// time and Unix modes; the Functions host needs the mode to start the executable.
package main

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

// epoch is the time of every entry: the first that a zip file can have.
var epoch = time.Date(1980, time.January, 1, 0, 0, 0, 0, time.UTC) //nolint:gochecknoglobals // it does not change

// entry is a file in the package.
type entry struct {
	name string
	mode fs.FileMode
	data []byte
}

func run(args []string) error {
	if len(args) < 2 {
		return errors.New("usage: pack OUT.zip and FILE, NAME=FILE or DIRECTORY, as many as there are")
	}
	var entries []entry
	for _, arg := range args[1:] {
		found, err := collectEntries(arg)
		if err != nil {
			return err
		}
		entries = append(entries, found...)
	}
	file, err := writeZip(entries)
	if err != nil {
		return err
	}
	return os.WriteFile(args[0], file, 0o644) //nolint:gosec // a package is no secret
}

// collectEntries returns the entries that an argument stands for.
func collectEntries(arg string) ([]entry, error) {
	if name, path, ok := strings.Cut(arg, "="); ok {
		data, err := os.ReadFile(path)
		return []entry{{name, 0o755, data}}, err
	}
	info, err := os.Stat(arg)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		data, err := os.ReadFile(arg)
		return []entry{{filepath.Base(arg), 0o644, data}}, err
	}
	var entries []entry
	tree := os.DirFS(arg)
	err = fs.WalkDir(tree, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(tree, path)
		entries = append(entries, entry{path, 0o644, data})
		return err
	})
	return entries, err
}

// writeZip returns the zip file of entries. Two of one name are an error.
func writeZip(entries []entry) ([]byte, error) {
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	var file bytes.Buffer
	w := zip.NewWriter(&file)
	for i, e := range entries {
		if i > 0 && entries[i-1].name == e.name {
			return nil, fmt.Errorf("two entries are called %s", e.name)
		}
		header := &zip.FileHeader{Name: e.name, Method: zip.Deflate, Modified: epoch}
		header.SetMode(e.mode)
		part, err := w.CreateHeader(header)
		if err != nil {
			return nil, err
		}
		if _, err := part.Write(e.data); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return file.Bytes(), nil
}
