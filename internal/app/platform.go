package app

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"path"
	"strings"

	"autopilot-unassign/internal/config"
)

// Errors of AUTH=platform on a host that authenticates no caller.
var (
	ErrAnonymousPackage = errors.New("AUTH=platform and the package lets anonymous callers in (authLevel in " +
		"function.json): " +
		"every caller could remove accounts; build the package with AUTHLEVEL=function, or set AUTH=platform-anonymous " +
		"if only a private network reaches the function app")
	ErrAnonymousAddress = errors.New("AUTH=platform and -listen is not a loopback address: every caller could remove " +
		"accounts; " +
		"listen on 127.0.0.1, or set AUTH=platform-anonymous if only a private network reaches the address")
)

// CheckPlatformAuth returns an error if the host must authenticate callers and does not. dir is the working directory;
// on Azure it holds the package.
func CheckPlatformAuth(c config.Config, address string, dir fs.FS) error {
	if !c.PlatformAuth || c.PlatformAnonymous {
		return nil
	}
	switch c.Host {
	case config.Azure:
		return checkPackage(dir)
	case config.Local:
		host, _, err := net.SplitHostPort(address)
		if err == nil && host != "localhost" && !net.ParseIP(host).IsLoopback() {
			return ErrAnonymousAddress
		}
	}
	return nil
}

// checkPackage returns ErrAnonymousPackage if an HTTP function beside health and root lets anonymous callers in.
func checkPackage(dir fs.FS) error {
	files, err := fs.Glob(dir, "*/function.json")
	if err != nil {
		return err
	}
	for _, file := range files {
		if folder := path.Dir(file); folder == "health" || folder == "root" {
			continue
		}
		text, err := fs.ReadFile(dir, file)
		if err != nil {
			return err
		}
		var function struct {
			Bindings []struct{ Type, AuthLevel string }
		}
		if err := json.Unmarshal(text, &function); err != nil {
			return err
		}
		for _, b := range function.Bindings {
			if strings.EqualFold(b.Type, "httpTrigger") && strings.EqualFold(b.AuthLevel, "anonymous") {
				return ErrAnonymousPackage
			}
		}
	}
	return nil
}
