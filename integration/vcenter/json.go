package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"time"

	"govmomi/simulator"
	"govmomi/vim25/methods"
	"govmomi/vim25/soap"
	"govmomi/vim25/types"
	"govmomi/vim25/xml"
)

// VI JSON in front of the simulator, which speaks SOAP only: a call in JSON becomes the call in SOAP that it stands for, and the answer
// or fault goes back in JSON, by reflection over govmomi's types, whose XML names are the names in JSON.
//
// It follows
//   - the Virtual Infrastructure JSON API (vi-json.yaml): POST /sdk/vim25/RELEASE/TYPE/ID/METHOD, its body an object of the parameters;
//     GET /sdk/vim25/RELEASE/TYPE/ID/PROPERTY; 204 where there is nothing to answer; a fault is HTTP 500 with the fault as an object,
//     and where SOAP wraps a fault (LocalizedMethodFault) it stands there by itself;
//   - the vSphere Web Services SDK Programming Guide 8.0, "Client Applications Using the JSON Protocol": the session is in the header
//     vmware-api-session-id, which Login gives; "_typeName" tells the type of a data object, and with "_value" that of a plain value
//     or array where the property may have any;
//   - the vSphere Automation API, "Vcenter System hello": which release is spoken, added in 8.0.2.0;
//   - what vCenter 8.0.3 was seen to do (evoila/meho, issues 3103 and 3566): data objects of a request without "_typeName" are refused
//     (InvalidArgument); a fault has its words in "faultstring"; a session that is over is the fault NotAuthenticated;
//   - how newer versions of govmomi do it (vim25/json, vim25/soap/json_client.go, "vcsim: Add minimal json-rpc support").

// apiRelease is the only one it speaks, and what the server then says that it is.
const apiRelease = "8.0.2.0"

const sessionHeader = "vmware-api-session-id"

// calls are those that upgradectl makes, by name: request, answer and fault are fields of the type.
var calls = map[string]reflect.Type{}

func init() {
	for _, body := range []interface{}{
		methods.RetrieveServiceContentBody{}, methods.LoginBody{}, methods.LogoutBody{},
		methods.RetrievePropertiesExBody{}, methods.ContinueRetrievePropertiesExBody{},
		methods.CreateContainerViewBody{}, methods.DestroyViewBody{}, methods.FindByUuidBody{},
		methods.CreateSnapshot_TaskBody{}, methods.RevertToSnapshot_TaskBody{}, methods.RemoveSnapshot_TaskBody{},
		methods.CloneVM_TaskBody{}, methods.ReconfigVM_TaskBody{}, methods.Rename_TaskBody{}, methods.Destroy_TaskBody{},
		methods.PromoteDisks_TaskBody{}, methods.ConsolidateVMDisks_TaskBody{},
		methods.PowerOnVM_TaskBody{}, methods.PowerOffVM_TaskBody{}, methods.ShutdownGuestBody{},
		methods.StartProgramInGuestBody{}, methods.ListProcessesInGuestBody{}, methods.TerminateProcessInGuestBody{},
		methods.CreateTemporaryDirectoryInGuestBody{}, methods.DeleteDirectoryInGuestBody{},
		methods.InitiateFileTransferToGuestBody{}, methods.InitiateFileTransferFromGuestBody{},
	} {
		kind := reflect.TypeOf(body)
		calls[strings.TrimSuffix(kind.Name(), "Body")] = kind
	}
}

// speakJSON lets the server be one that knows JSON, and say so. SOAP it speaks no more then: nobody falls back to it unseen.
func speakJSON(instance *simulator.ServiceInstance, next http.Handler) http.Handler {
	about := &instance.Content.About
	version := strings.TrimSuffix(apiRelease, ".0")
	about.FullName = strings.Replace(about.FullName, about.Version, version, 1)
	about.Version, about.ApiVersion = version, apiRelease
	return &translator{next, instance.Content.PropertyCollector}
}

type translator struct {
	next      http.Handler
	collector types.ManagedObjectReference
}

func (t *translator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/api/vcenter/system" && r.URL.Query().Get("action") == "hello" {
		hello(w, r)
		return
	}
	if !strings.HasPrefix(r.URL.Path, "/sdk") {
		t.next.ServeHTTP(w, r)
		return
	}
	path := strings.Split(strings.TrimPrefix(r.URL.Path, "/sdk/vim25/"+apiRelease+"/"), "/")
	if len(path) != 3 {
		http.NotFound(w, r)
		return
	}
	this := types.ManagedObjectReference{Type: path[0], Value: path[1]}
	ask := t.invoke
	if r.Method == http.MethodGet {
		ask = t.property
	}
	got := ask(r, this, path[2])
	var out bytes.Buffer
	status := http.StatusOK
	if got.fault != nil {
		status = http.StatusInternalServerError
		write(&out, reflect.ValueOf(got.fault.VimFault()), false)
		if got.fault.String != "" {
			out.Truncate(out.Len() - 1)
			fmt.Fprintf(&out, `,"faultstring":%s}`, plain(got.fault.String))
		}
	} else if got.value.IsValid() {
		write(&out, got.value, false)
	}
	if out.Len() == 0 {
		status = http.StatusNoContent
	}
	if got.session != "" {
		w.Header().Set(sessionHeader, got.session)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(out.Bytes())
}

// hello: "The server will select the first mutually supported release ID ... If there is no mutually-supported API release, the value
// will be an empty string".
func hello(w http.ResponseWriter, r *http.Request) {
	var asked struct {
		Releases []string `json:"api_releases"`
	}
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil || len(asked.Releases) == 0 {
		http.Error(w, "no releases", http.StatusBadRequest)
		return
	}
	chosen := ""
	for _, release := range asked.Releases {
		if release == apiRelease {
			chosen = release
		}
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"api_release":%s}`, plain(chosen))
}

// told is a fault, or a value (none, if there is nothing to say) and the key of a session that was begun.
type told struct {
	value   reflect.Value
	session string
	fault   *soap.Fault
}

func refused(err error) told {
	log.Print(err)
	return told{fault: simulator.Fault(err.Error(), new(types.InvalidArgument))}
}

// invoke is a call of a method.
func (t *translator) invoke(r *http.Request, this types.ManagedObjectReference, method string) told {
	kind, ok := calls[method]
	if !ok {
		return told{fault: simulator.Fault(method, &types.MethodNotFound{Receiver: this, Method: method})}
	}
	body := reflect.New(kind)
	request := reflect.New(body.Elem().FieldByName("Req").Type().Elem())
	decoder := json.NewDecoder(r.Body)
	decoder.UseNumber()
	var parameters map[string]interface{}
	// Without parameters there need not be a body.
	if err := decoder.Decode(&parameters); err != nil && err != io.EOF {
		return refused(err)
	}
	if err := readFields(request.Elem(), parameters); err != nil {
		return refused(err)
	}
	request.Elem().FieldByName("This").Set(reflect.ValueOf(this))
	body.Elem().FieldByName("Req").Set(request)
	got := t.call(r, body.Interface().(soap.HasFault))
	if got.fault == nil {
		got.value = body.Elem().FieldByName("Res").Elem().FieldByName("Returnval")
	}
	return got
}

// property is one property of an object. The content of the service is for everybody: there is no session before it is known.
func (t *translator) property(r *http.Request, this types.ManagedObjectReference, name string) told {
	if this.Type == "ServiceInstance" && name == "content" {
		return t.invoke(r, this, "RetrieveServiceContent")
	}
	body := &methods.RetrievePropertiesExBody{Req: &types.RetrievePropertiesEx{
		This: t.collector,
		SpecSet: []types.PropertyFilterSpec{{
			PropSet:   []types.PropertySpec{{Type: this.Type, PathSet: []string{name}}},
			ObjectSet: []types.ObjectSpec{{Obj: this}},
		}},
	}}
	got := t.call(r, body)
	if got.fault == nil && body.Res.Returnval != nil {
		for _, object := range body.Res.Returnval.Objects {
			for _, found := range object.PropSet {
				got.value = reflect.ValueOf(found.Val)
			}
		}
	}
	return got
}

// call makes a call in SOAP, the session in its cookie; the body gets what was answered.
func (t *translator) call(r *http.Request, body soap.HasFault) told {
	envelope, err := xml.Marshal(soap.Envelope{Body: body})
	if err != nil {
		return refused(err)
	}
	asked := r.Clone(r.Context())
	asked.Method, asked.URL, asked.Body = http.MethodPost, &url.URL{Path: "/sdk"}, io.NopCloser(bytes.NewReader(envelope))
	asked.Header.Set("Cookie", soap.SessionCookieName+"="+r.Header.Get(sessionHeader))
	recorded := httptest.NewRecorder()
	t.next.ServeHTTP(recorded, asked)
	decoder := xml.NewDecoder(recorded.Body)
	decoder.TypeFunc = types.TypeFunc()
	if err := decoder.Decode(&soap.Envelope{Body: body}); err != nil {
		return refused(err)
	}
	got := told{fault: body.Fault()}
	for _, cookie := range recorded.Result().Cookies() {
		if cookie.Name == soap.SessionCookieName {
			got.session = cookie.Value
		}
	}
	return got
}

// fields are those of a data object, by their names in JSON.
func fields(of reflect.Type) []reflect.StructField {
	var all []reflect.StructField
	for _, field := range reflect.VisibleFields(of) {
		if field.Anonymous {
			continue
		}
		field.Name = strings.Split(field.Tag.Get("xml"), ",")[0]
		// Of a reference to an object the type is an attribute, the value the text.
		if field.Name == "" {
			field.Name = "value"
		}
		all = append(all, field)
	}
	return all
}

// primitives are the names of plain types, as XML Schema has them.
var primitives = map[string]reflect.Type{
	"boolean": reflect.TypeOf(false), "byte": reflect.TypeOf(uint8(0)), "short": reflect.TypeOf(int16(0)),
	"int": reflect.TypeOf(int32(0)), "long": reflect.TypeOf(int64(0)), "float": reflect.TypeOf(float32(0)),
	"double": reflect.TypeOf(float64(0)), "string": reflect.TypeOf(""), "dateTime": reflect.TypeOf(time.Time{}),
	"base64Binary": reflect.TypeOf([]byte{}),
}

func plain(value interface{}) []byte {
	text, err := json.Marshal(value)
	if err != nil {
		log.Print(err)
	}
	return text
}

// array is the one field of an ArrayOf…, which stands for a list where there may be anything.
func array(of reflect.Type) bool {
	return of.Kind() == reflect.Struct && strings.HasPrefix(of.Name(), "ArrayOf") && of.NumField() == 1
}

// write writes a value; where there may be anything (loose) with its type. Nothing is written for what is nil.
func write(out *bytes.Buffer, value reflect.Value, loose bool) {
	of := value.Type()
	switch {
	case of.Kind() == reflect.Interface || of.Kind() == reflect.Ptr:
		if !value.IsNil() {
			write(out, value.Elem(), loose || of == reflect.TypeOf((*types.AnyType)(nil)).Elem())
		}
	case of == reflect.TypeOf(types.LocalizedMethodFault{}):
		write(out, value.FieldByName("Fault"), false)
	case array(of) && !loose:
		write(out, value.Field(0), false)
	case of.Kind() == reflect.Struct && !array(of) && of != primitives["dateTime"]:
		fmt.Fprintf(out, `{"_typeName":%s`, plain(of.Name()))
		for _, field := range fields(of) {
			part := value.FieldByIndex(field.Index)
			var inner bytes.Buffer
			if !part.IsZero() || !strings.Contains(string(field.Tag), "omitempty") {
				write(&inner, part, false)
			}
			if inner.Len() > 0 {
				fmt.Fprintf(out, ",%s:%s", plain(field.Name), inner.Bytes())
			}
		}
		out.WriteByte('}')
	case loose:
		name := of.Name()
		for known, kind := range primitives {
			if kind == of {
				name = known
			}
		}
		fmt.Fprintf(out, `{"_typeName":%s,"_value":`, plain(name))
		write(out, value, false)
		out.WriteByte('}')
	case of.Kind() == reflect.Slice && of != primitives["base64Binary"]:
		out.WriteByte('[')
		for i := 0; i < value.Len(); i++ {
			if i > 0 {
				out.WriteByte(',')
			}
			write(out, value.Index(i), false)
		}
		out.WriteByte(']')
	default:
		out.Write(plain(value.Interface()))
	}
}

// read reads a value into what it is for. Errors tell types, and no values: there are passwords among them.
func read(into reflect.Value, from interface{}) error {
	object, _ := from.(map[string]interface{})
	kind, _ := object["_typeName"].(string)
	wrong := fmt.Errorf("%q is no %s", kind, into.Type())
	switch {
	case from == nil:
		return nil
	case into.Kind() == reflect.Interface:
		of, ok := primitives[kind]
		if !ok {
			of, ok = types.TypeFunc()(kind)
		}
		if !ok {
			return wrong
		}
		made := reflect.New(of)
		inner := made.Elem()
		if array(of) {
			inner = inner.Field(0)
		}
		value, wrapped := object["_value"]
		if !wrapped {
			value = from
		}
		if err := read(inner, value); err != nil {
			return err
		}
		// What may be one of several types is in govmomi a pointer to it, what may be anything a value.
		switch {
		case of.AssignableTo(into.Type()):
			into.Set(made.Elem())
		case made.Type().AssignableTo(into.Type()):
			into.Set(made)
		default:
			return wrong
		}
		return nil
	case into.Kind() == reflect.Ptr:
		into.Set(reflect.New(into.Type().Elem()))
		return read(into.Elem(), from)
	case into.Type() == primitives["dateTime"] || into.Type() == primitives["base64Binary"]:
		// Texts.
	case into.Kind() == reflect.Struct:
		if kind != into.Type().Name() {
			return wrong
		}
		return readFields(into, object)
	case into.Kind() == reflect.Slice:
		list, ok := from.([]interface{})
		if !ok {
			return wrong
		}
		into.Set(reflect.MakeSlice(into.Type(), len(list), len(list)))
		for i, part := range list {
			if err := read(into.Index(i), part); err != nil {
				return err
			}
		}
		return nil
	}
	return json.Unmarshal(plain(from), into.Addr().Interface())
}

func readFields(into reflect.Value, from map[string]interface{}) error {
	known := map[string][]int{"_typeName": nil}
	for _, field := range fields(into.Type()) {
		known[field.Name] = field.Index
	}
	for name, value := range from {
		index, ok := known[name]
		if !ok {
			return fmt.Errorf("a %s has no %s", into.Type().Name(), name)
		}
		if index == nil {
			continue
		}
		if err := read(into.FieldByIndex(index), value); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
