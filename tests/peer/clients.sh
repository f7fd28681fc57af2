#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# What programs that call qemu-img do with platter in its place, beyond tests/peer/options.sh: the calls
# with secrets and with vpc images; libvirt itself, a private one that finds our program in its PATH;
# the parser of OpenStack; info within the limits that its callers set.

. "${abs_srcdir:-$(dirname "$0")/../..}/tests/lib.sh"
requires qemu-img qemu-io prlimit jq
. "$srcdir/tests/peer/peer.sh"
. "$srcdir/tests/peer/calls.sh"
is_qemu_7 || skip_all 'qemu-img 7.2 is not installed'

QI=$QEMU_IMG_LINK

truncate -s 5M raw
seq 1 90000 | dd of=raw bs=64k seek=7 conv=notrunc status=none
printf hunter2 >KEY

# ---- vpc -----------------------------------------------------------------------------------------

mkdir "$SCRATCH/given"
cp raw "$SCRATCH/given"
(cd "$SCRATCH/given" && qemu-img convert -f raw -O qcow2 raw base.qcow2 && qemu-img convert -O vpc raw base.vpc)

with_vpc() {
	q create -f vpc "$PWD/1" 262144K
	q create -f vpc 2 1G
	q create -f vpc 3 536870912
	q convert -f qcow2 -O vpc base.qcow2 4
	q convert -O vpc -c -f raw raw 5
	q convert -O raw -f vpc base.vpc 6
	q convert -O qcow2 -f vpc base.vpc 7
	q convert -t none -O raw -f vpc base.vpc 8
	q info base.vpc
	q info --output=json base.vpc
	q info base.vpc --force-share --output=json -f vpc
	q info -f luks --output=json base.vpc
	q info -U --output json base.vpc
	q measure -f vpc -O qcow2 base.vpc
}
call 'vpc' with_vpc
fails 1 'what is no vpc' "$QI" info -f vpc --output=json --force-share raw
is "$("$QI" info -f vhd --output=json "$SCRATCH/given/base.vpc" | jq -r .format)" vpc 'cinder calls it vhd'

# ---- secrets -------------------------------------------------------------------------------------

# The calls of libvirt, nova and cinder; only the first two spend the two seconds that a key costs by default.
# later N ARGUMENT...: in the background; N names its output.
later() {
	"$QI" "${@:2}" >"$1.out" 2>"$1.err" </dev/null
	echo $? >"$1.status"
}
later 1 create -f qcow2 --object secret,id=F_encrypt0,file=KEY -o encrypt.format=luks,encrypt.key-secret=F_encrypt0,compat=1.1 \
	one 131072K &
later 2 create -f luks --object secret,id=F_encrypt0,file=KEY -o key-secret=F_encrypt0 two 65536K &
wait
later 3 create -f qcow2 --object secret,id=sec,file=KEY -o encrypt.key-secret=sec -o encrypt.format=luks \
	-o encrypt.cipher-alg=aes-256 -o encrypt.cipher-mode=xts -o encrypt.hash-alg=sha256 -o encrypt.iter-time=20 \
	-o encrypt.ivgen-alg=plain64 -o encrypt.ivgen-hash-alg=sha256 three 67108864 &
later 4 create -f qcow2 -o \
	encrypt.format=luks,encrypt.key-secret=sec1,encrypt.cipher-alg=aes-256,encrypt.cipher-mode=xts,encrypt.ivgen-alg=plain64,encrypt.iter-time=20 \
	--object secret,id=sec1,format=raw,file=KEY four 1073741824 &
wait
later 5 convert -O luks -f raw -o cipher-alg=aes-256,cipher-mode=xts,ivgen-alg=plain64,iter-time=20 \
	--object secret,id=luks_sec,format=raw,file=KEY -o key-secret=luks_sec raw five &
later 6 convert --image-opts -n --target-image-opts --object secret,id=F_encrypt0,file=KEY driver=raw,file.filename=raw \
	driver=luks,file.filename=two,key-secret=F_encrypt0 &
wait
qemu-io --object secret,id=s,file=KEY -c 'write -P 5 1M 2M' --image-opts \
	driver=qcow2,file.filename=three,encrypt.key-secret=s >/dev/null
later 7 convert --object secret,id=sec1,format=raw,file=KEY --object secret,id=sec2,format=raw,file=KEY --image-opts \
	encrypt.format=luks,encrypt.key-secret=sec1,file.filename=three -O luks -o key-secret=sec2,iter-time=20 seven
later 8 resize --object secret,id=F_encrypt0,file=KEY --image-opts \
	driver=luks,key-secret=F_encrypt0,file.filename=two 100663296
n=0
for text in 'libvirt: qcow2 with LUKS' 'libvirt: luks' 'nova: qcow2 with LUKS' 'cinder: qcow2 with LUKS' 'cinder: to luks' \
	'libvirt: into luks' 'cinder: luks from qcow2' 'libvirt: resize luks'; do
	n=$((n + 1))
	is "$(cat $n.status)" 0 "$text: status 0"
	is "$(cat $n.err)" '' "$text: nothing on stderr"
	case $n in
	[1-4]) like "$(cat $n.out)" '^Formatting ' "$text: stdout" ;;
	8) is "$(cat $n.out)" 'Image resized.' "$text: stdout" ;;
	*) is "$(cat $n.out)" '' "$text: stdout" ;;
	esac
done
# What has come of it, by qemu-img.  reads FILE LAYER RAW: with the key, what RAW says.
reads() {
	ok "$1 has the data" qemu-img compare --object secret,id=s,file=KEY --image-opts \
		"driver=$2,file.filename=$1,${4-}key-secret=s" "driver=raw,file.filename=$3"
}
truncate -s 64M written
qemu-io -f raw -c 'write -P 5 1M 2M' written >/dev/null
ok 'two has the data' cmp -n 5242880 raw <(qemu-img dd --object secret,id=s,file=KEY -O raw bs=1M count=5 \
	--image-opts if=driver=luks,file.filename=two,key-secret=s of=first && cat first)
reads five luks raw
reads three qcow2 written encrypt.
reads seven luks written
is "$(qemu-img info --output=json four | jq '."virtual-size"')" 1073741824 'cinder: the size'
is "$(qemu-img info --output=json one | jq -r '."format-specific".data.encrypt.format')" luks 'libvirt: the kind of encryption'
like "$("$QI" info -f luks --output=json raw 2>&1)" "^qemu-img: Could not open 'raw': Volume is not in LUKS format" \
	'cinder: what is no luks'

# ---- info: limits, and nothing but the answer ----------------------------------------------------

cp "$SCRATCH"/given/base.* .
qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 over.qcow2
for f in raw base.qcow2 over.qcow2 base.vpc one two seven; do
	for o in '' --output=json; do
		# (a sanitizer takes more address space)
		# shellcheck disable=SC2086
		if [ "$SANITIZER" = 1 ]; then
			"$QI" info $o "$f" >out 2>err
		else
			(ulimit -v 1048576 -t 2 && env LC_ALL=C "$QI" info "$f" --force-share $o >out 2>err)
		fi
		is "$?$(cat err)" 0 "info $o $f: nothing on stderr"
		# shellcheck disable=SC2086
		is "$(cat out)" "$(qemu-img info $o "$f")" "info $o $f: the answer"
	done
done

# ---- OpenStack's parser --------------------------------------------------------------------------

OSLO='import sys
from oslo_utils import imageutils
q = imageutils.QemuImgInfo(sys.stdin.read(), format=sys.argv[1])
print(q.image, q.file_format, q.virtual_size, q.cluster_size, q.disk_size, q.backing_file, q.backing_file_format, q.encrypted)'
python=
for python in /usr/bin/python3 python3 ''; do
	[ -z "$python" ] || ! "$python" -W ignore -c 'import oslo_utils.imageutils' 2>/dev/null || break
done
if [ -z "$python" ]; then
	skip "OpenStack's parser" 'oslo.utils is not installed'
else
	for f in raw base.qcow2 over.qcow2 base.vpc two; do
		for format in human json; do
			"$QI" info --output=$format "$f" >out
			got=$("$python" -W ignore -c "$OSLO" $format <out 2>&1)
			is "$got" "$(qemu-img info --output=$format "$f" | "$python" -W ignore -c "$OSLO" $format 2>&1)" \
				"oslo reads $f, $format"
			like "$got" "^$f (raw|qcow2|vpc|luks) [0-9]+ " "oslo reads $f, $format: name, format and size"
		done
	done
	"$QI" info --output=human over.qcow2 >out
	like "$("$python" -W ignore -c "$OSLO" human <out 2>&1)" ' base.qcow2 qcow2 ' 'oslo reads the backing file'
fi

# ---- libvirt -------------------------------------------------------------------------------------

# A daemon of our own, of a user who is not root, whose files and sockets all lie here.
as_user() {
	if [ "$(id -u)" = 0 ]; then unshare -U --map-user=1000 --map-group=1000 -- "$@"; else "$@"; fi
}
v() {
	as_user virsh -q -c storage:///session "$@"
}
if ! command -v libvirtd virsh >/dev/null || ! as_user true 2>/dev/null; then
	skip 'libvirt' 'libvirtd, virsh or user namespaces are not there'
	done_testing
fi
export HOME=$PWD/home XDG_RUNTIME_DIR=$PWD/home/run XDG_CONFIG_HOME=$PWD/home/config XDG_CACHE_HOME=$PWD/home/cache
mkdir -p home/run home/config home/cache bin pool
chmod 700 home/run
cat >bin/qemu-img <<END
#!/bin/bash
printf '%s ' "\$@" >>'$PWD/calls'
echo >>'$PWD/calls'
exec -a qemu-img '$QI' "\$@"
END
chmod +x bin/qemu-img
PATH=$PWD/bin:$PATH as_user libvirtd -p "$SCRATCH/libvirtd.pid" >libvirtd.log 2>&1 &
daemon=$!
end() {
	local status=$?

	kill "$(cat "$SCRATCH/libvirtd.pid")" 2>/dev/null
	wait "$daemon" 2>/dev/null
	(exit $status)
	tap_cleanup
}
trap end EXIT
for ((i = 0; i < 50; i++)); do
	[ ! -S home/run/libvirt/libvirt-sock ] || break
	sleep 0.1
done
# (a path of a socket is at most 107 bytes)
if ! v pool-create-as p dir --target "$PWD/pool" 2>virsh.log; then
	skip 'libvirt' "no daemon: $(tail -n 1 virsh.log)"
	done_testing
fi
ok 'vol-create-as, the default' v vol-create-as p a.qcow2 16M --format qcow2
ok 'vol-create-as, with a backing file' v vol-create-as p b.qcow2 32M --format qcow2 --backing-vol a.qcow2 --backing-vol-format qcow2
ok 'vol-create-as, preallocated' v vol-create-as p c.qcow2 16M --format qcow2 --prealloc-metadata
ok 'vol-create-as, vpc' v vol-create-as p d.vpc 16M --format vpc
cat >volume.xml <<'END'
<volume><name>e.qcow2</name><capacity unit='M'>64</capacity><target><format type='qcow2'/><compat>1.1</compat>
<clusterSize unit='k'>128</clusterSize><features><lazy_refcounts/><extended_l2/></features></target></volume>
END
ok 'vol-create, with features' v vol-create p volume.xml
qemu-io -c 'write -P 7 1M 3M' pool/a.qcow2 >/dev/null
ok 'vol-clone' v vol-clone --pool p a.qcow2 f.qcow2
cat >clone.xml <<'END'
<volume><name>g.raw</name><capacity unit='M'>16</capacity><target><format type='raw'/></target></volume>
END
ok 'vol-create-from: to raw' v vol-create-from p clone.xml a.qcow2 --inputpool p
ok 'vol-resize' v vol-resize --pool p f.qcow2 48M
ok 'vol-resize, shrinking' v vol-resize --pool p f.qcow2 24M --shrink
fails 1 'vol-resize without it' v vol-resize --pool p f.qcow2 20M
for f in a.qcow2:16777216 b.qcow2:33554432 c.qcow2:16777216 e.qcow2:67108864 f.qcow2:25165824; do
	is "$(v vol-dumpxml --pool p "${f%:*}" | sed -n "s/.*<capacity unit='bytes'>\([0-9]*\).*/\1/p")" "${f#*:}" \
		"libvirt reads the size of ${f%:*}"
	ok "qemu-img finds ${f%:*} in order" qemu-img check -q "pool/${f%:*}"
done
like "$(v vol-dumpxml --pool p b.qcow2)" '<path>[^<]*/pool/a.qcow2</path>' 'libvirt reads the backing file'
like "$(v vol-dumpxml --pool p e.qcow2 | tr -d ' \n')" '<compat>1.1</compat>.*<lazy_refcounts/><extended_l2/>' \
	'libvirt reads the features'
like "$(qemu-img info pool/d.vpc)" 'file format: vpc' 'a vpc volume'
ok 'the copy has the data' qemu-img compare pool/a.qcow2 pool/g.raw
is "$(qemu-io -r -c 'read -P 7 1M 3M' pool/f.qcow2 | grep -c '^read 3145728')" 1 'the clone has the data'
like "$(cat calls)" 'create -f qcow2 -o compat=0.10' 'it was our program that libvirt called'
v pool-destroy p
done_testing
