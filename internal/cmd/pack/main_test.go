package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// pack packs the arguments and returns the file.
func pack(t *testing.T, args ...string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out.zip")
	if err := run(append([]string{out}, args...)); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// The package for Azure, with its real files except the executable.
func TestAzurePackage(t *testing.T) {
	worker := filepath.Join(t.TempDir(), "built")
	if err := os.WriteFile(worker, []byte("binary"), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"../../../host.json", "worker=" + worker, "../../../infra/azure/functions"}
	file := pack(t, args...)
	r, err := zip.NewReader(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	want := []struct {
		name string
		mode fs.FileMode
	}{{"devices/function.json", 0o644}, {"doctor/function.json", 0o644}, {"health/function.json", 0o644}, {"host.json", 0o644}, {"root/function.json", 0o644}, {"unassign/function.json", 0o644}, {"worker", 0o755}}
	if len(r.File) != len(want) {
		t.Fatalf("%d entries, want %d", len(r.File), len(want))
	}
	for i, f := range r.File {
		const unix = 3
		if f.Name != want[i].name || f.Mode() != want[i].mode || f.CreatorVersion>>8 != unix || !f.Modified.Equal(epoch) {
			t.Errorf("%s with mode %v, made by %d, at %v; want %s with %v", f.Name, f.Mode(), f.CreatorVersion>>8, f.Modified, want[i].name, want[i].mode)
		}
	}
	part, err := r.Open("worker")
	if err != nil {
		t.Fatal(err)
	}
	if data, err := io.ReadAll(part); err != nil || string(data) != "binary" {
		t.Errorf("worker is %q, %v", data, err)
	}

	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(worker, later, later); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(file, pack(t, args[2], args[1], args[0])) {
		t.Error("the same files in another order, and touched, make another package")
	}
}

// An archive for macOS and Linux: the program keeps its mode, and equal input makes equal bytes.
func TestTar(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out.tar.gz")
	var files [][]byte
	for range 2 {
		if err := run([]string{out, "unassign=main.go", "../../../LICENSE"}); err != nil {
			t.Fatal(err)
		}
		file, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	if !bytes.Equal(files[0], files[1]) {
		t.Error("equal input makes different archives")
	}
	compressed, err := gzip.NewReader(bytes.NewReader(files[0]))
	if err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(compressed)
	for _, want := range []struct {
		name string
		mode int64
	}{{"LICENSE", 0o644}, {"unassign", 0o755}} {
		header, err := r.Next()
		if err != nil || header.Name != want.name || header.Mode != want.mode || header.Uid != 0 || !header.ModTime.Equal(epoch) {
			t.Fatalf("%+v, %v; want %v", header, err, want)
		}
		source := map[string]string{"LICENSE": "../../../LICENSE", "unassign": "main.go"}[want.name]
		data, err := io.ReadAll(r)
		if stored, _ := os.ReadFile(source); err != nil || !bytes.Equal(data, stored) {
			t.Errorf("%s has %d bytes, %v", want.name, len(data), err)
		}
	}
}

func TestPackRefuses(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out.zip")
	for name, args := range map[string][]string{
		"nothing to pack": {out},
		"a missing file":  {out, "missing"},
		"a missing tool":  {out, "worker=missing"},
		"a name twice":    {out, "../../../host.json", "host.json=../../../host.json"},
	} {
		if err := run(args); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("a package was written all the same")
	}
}
