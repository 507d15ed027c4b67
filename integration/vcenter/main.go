// A vCenter for the lab: govmomi's simulator over TLS, extended by what it lacks and upgradectl calls.
//
//	vcenter DIR [json]
//
// writes into DIR: `url`, `ca.pem` (its authority), `thumbprint` (of its certificate, SHA-256), and listens at DIR/control for the
// lab (control.go). The login is `user`, `pass`. It ends with its standard input, so that nothing is left of it when the lab ends.
// It speaks SOAP, or with `json` VI JSON (json.go).
//
// The extensions, each with the sentence of the vSphere Web Services API Reference that it follows, are in machine.go (disks of
// snapshots and of linked clones, PromoteDisks_Task, extraConfig) and guest.go (guest operations).
package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"govmomi/simulator"
	"govmomi/vim25/methods"
	"govmomi/vim25/soap"
	"govmomi/vim25/types"
)

// certificates makes an authority, and by it a certificate for 127.0.0.1; the authority's comes second.
func certificates() (tls.Certificate, []byte, error) {
	template := func(name string) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber:          big.NewInt(time.Now().UnixNano()),
			Subject:               pkix.Name{CommonName: name},
			NotBefore:             time.Now().Add(-time.Hour),
			NotAfter:              time.Now().Add(30 * 24 * time.Hour),
			BasicConstraintsValid: true,
		}
	}
	authority := template("upgradectl lab authority")
	authority.KeyUsage, authority.IsCA = x509.KeyUsageCertSign, true
	server := template("upgradectl lab vCenter")
	server.KeyUsage, server.IPAddresses = x509.KeyUsageDigitalSignature, []net.IP{net.IPv4(127, 0, 0, 1)}
	server.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	var keys [2]*ecdsa.PrivateKey
	for i := range keys {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return tls.Certificate{}, nil, err
		}
		keys[i] = key
	}
	ca, err := x509.CreateCertificate(rand.Reader, authority, authority, &keys[0].PublicKey, keys[0])
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, server, authority, &keys[1].PublicKey, keys[0])
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: keys[1]}, ca, nil
}

// collector is the simulator's, which answers anybody; a real one wants a session. Its calls, the first of each session, are where
// a session gets the extended machines.
type collector struct {
	simulator.PropertyCollector
}

func (c *collector) RetrievePropertiesEx(ctx *simulator.Context, req *types.RetrievePropertiesEx) soap.HasFault {
	if ctx.Session == nil {
		fault := &types.NotAuthenticated{NoPermission: types.NoPermission{Object: req.This, PrivilegeId: "System.View"}}
		return &methods.RetrievePropertiesExBody{Fault_: simulator.Fault("", fault)}
	}
	extend(ctx)
	return c.PropertyCollector.RetrievePropertiesEx(ctx, req)
}

var login = regexp.MustCompile(`<Login[ >]`)

// front stands before the simulator: it records the keys of sessions, and serves files of guests.
func front(mux http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == guestPath {
			serveGuest(w, r)
			return
		}
		body, err := io.ReadAll(io.LimitReader(r.Body, 64<<20))
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		mux.ServeHTTP(w, r)
		if !login.Match(body) {
			return
		}
		for _, cookie := range (&http.Response{Header: w.Header()}).Cookies() {
			if cookie.Name == soap.SessionCookieName {
				sessions.add(cookie.Value)
			}
		}
	})
}

func run(dir string, json bool) error {
	model := simulator.VPX()
	model.Portgroup = 1
	defer model.Remove()
	if err := model.Create(); err != nil {
		return err
	}
	pair, authority, err := certificates()
	if err != nil {
		return err
	}
	model.Service.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	model.Service.Listen = &url.URL{Host: "127.0.0.1:0", User: url.UserPassword("user", "pass")}
	server := model.Service.NewServer()
	defer server.Close()
	instance := simulator.Map.Get(types.ManagedObjectReference{Type: "ServiceInstance", Value: "ServiceInstance"}).(*simulator.ServiceInstance)
	own := &collector{}
	own.Self = instance.Content.PropertyCollector
	simulator.Map.Put(own)
	guestOperations(instance.Content)
	server.Config.Handler = front(server.Config.Handler)
	if json {
		server.Config.Handler = speakJSON(instance, server.Config.Handler)
	}
	server.Config.Handler = faults.gate(server.Config.Handler)

	if err := listen(filepath.Join(dir, "control")); err != nil {
		return err
	}
	files := map[string][]byte{
		"ca.pem":     pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority}),
		"thumbprint": []byte(fmt.Sprintf("%x\n", sha256.Sum256(pair.Certificate[0]))),
		"url":        []byte("https://" + server.URL.Host + "\n"),
	}
	// The address last: whoever sees it can begin.
	for _, name := range []string{"ca.pem", "thumbprint", "url"} {
		part := filepath.Join(dir, "."+name)
		if err := os.WriteFile(part, files[name], 0600); err != nil {
			return err
		}
		if err := os.Rename(part, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func main() {
	json := len(os.Args) == 3 && os.Args[2] == "json"
	if len(os.Args) != 2 && !json {
		log.Fatal("usage: vcenter DIR [json]")
	}
	if err := run(os.Args[1], json); err != nil {
		log.Fatal(err)
	}
}
