//go:build programs

package programs

import _ "github.com/FerretDB/FerretDB/cmd/ferretdb"
