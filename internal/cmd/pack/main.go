// Pack makes the archives of a release:
//
//	pack OUT.zip|OUT.tar.gz FILE|NAME=FILE|DIRECTORY...
//
// A FILE is stored in the root under its own name, as data; NAME=FILE is stored there as an executable; the files of a
// DIRECTORY are stored under their paths below it, as data. Equal input makes equal bytes: entries are sorted and have
// one time and Unix modes; the Functions host needs the mode to start the executable.
package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
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
		return errors.New("usage: pack OUT.zip|OUT.tar.gz with at least one FILE, NAME=FILE or DIRECTORY")
	}
	var entries []entry
	for _, arg := range args[1:] {
		found, err := collectEntries(arg)
		if err != nil {
			return err
		}
		entries = append(entries, found...)
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	for i := range entries[1:] {
		if entries[i].name == entries[i+1].name {
			return fmt.Errorf("two entries are called %s", entries[i].name)
		}
	}
	write := writeZip
	if strings.HasSuffix(args[0], ".tar.gz") {
		write = writeTar
	}
	file, err := write(entries)
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

// writeZip returns the zip file of entries.
func writeZip(entries []entry) ([]byte, error) {
	var file bytes.Buffer
	w := zip.NewWriter(&file)
	for _, e := range entries {
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

// writeTar returns the compressed tar file of entries.
func writeTar(entries []entry) ([]byte, error) {
	var file bytes.Buffer
	compressed := gzip.NewWriter(&file)
	w := tar.NewWriter(compressed)
	for _, e := range entries {
		header := &tar.Header{
			Name: e.name, Mode: int64(e.mode), Size: int64(len(e.data)), ModTime: epoch,
			Typeflag: tar.TypeReg,
		}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := w.Write(e.data); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(w.Close(), compressed.Close()); err != nil {
		return nil, err
	}
	return file.Bytes(), nil
}
