package sinktest

import (
	"encoding/xml"
	"fmt"
	"io"
	"time"
)

// JUnit writes the report in the XML form that continuous integration systems read.
func (r *Report) JUnit(w io.Writer) error {
	type note struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
	type testcase struct {
		Class   string `xml:"classname,attr"`
		Name    string `xml:"name,attr"`
		Time    string `xml:"time,attr"`
		Failure *note  `xml:"failure"`
		Skipped *note  `xml:"skipped"`
	}
	type suite struct {
		XMLName  xml.Name   `xml:"testsuite"`
		Name     string     `xml:"name,attr"`
		Tests    int        `xml:"tests,attr"`
		Failures int        `xml:"failures,attr"`
		Skipped  int        `xml:"skipped,attr"`
		Time     string     `xml:"time,attr"`
		Cases    []testcase `xml:"testcase"`
	}
	s := suite{
		Name: "muxd sink plugin " + r.Plugin, Tests: len(r.Results), Failures: r.Count(Failed), Skipped: r.Count(NotApplicable),
	}
	var all time.Duration
	for _, x := range r.Results {
		c := testcase{Class: "sink." + r.Plugin, Name: x.ID, Time: seconds(x.Took)}
		if x.Spec != "" {
			c.Name += " " + x.Spec
		}
		switch x.Outcome {
		case Failed:
			c.Failure = &note{x.Expect, x.Detail}
		case NotApplicable:
			c.Skipped = &note{x.Detail, ""}
		}
		all += x.Took
		s.Cases = append(s.Cases, c)
	}
	s.Time = seconds(all)
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(s); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w)
	return err
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.3f", d.Seconds()) }
