package main

import (
	"regexp"
	"sync"
)

// plainWord matches an id or a number of a host, of at most 64 characters. Compiling it would delay every start.
var plainWord = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[0-9A-Za-z-]{1,64}$`) }) //nolint:gochecknoglobals // a constant

// hostWords returns the words of a queue for the log, without those that are no plain word: a sender can write into
// the metadata of Azure, and anybody who may invoke the Lambda function writes its events.
func hostWords(words map[string]string) map[string]string {
	for name, word := range words {
		if !plainWord().MatchString(word) {
			delete(words, name)
		}
	}
	return words
}
