#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
"""Images that QEMU's programs have made, in random shapes, are sound to platter, and stay as they are:

    sound.py COUNT SEED [only NUMBER]

closed   made and used by qemu-img and qemu-io (writes, discards, compressed data, snapshots made, applied and deleted,
         bitmaps, sizes changed, guests whose files are images themselves): check says 0, check -r all and repair
         change no byte, and convert --rescue shows what convert does, with nothing in its lists
killed   the last program was killed at a random moment, or a snapshot's deletion went half of its way: check -r all ends
         with 0, or with 3 where it cannot be told from a loss (or says that it is one: counted apart); the disk and its
         snapshots are what they were; qemu-img finds no error

One line a failure, with the image kept in kept-NUMBER.img; the exit status says whether there was one.  Where the killing
falls is not the seed's: a failure of a killed image is repeated from what was kept.
"""
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

PLATTER = os.environ.get('PLATTER', 'platter')
ENV = {**os.environ, 'LC_ALL': 'C'}


class Wrong(Exception):
    pass


def run(*args, **kw):
    p = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120, env=ENV, **kw)
    return p.returncode, p.stdout.decode(errors='replace') + ('' if '--output=json' in args else p.stderr.decode())


def short(text):
    return text if len(text) < 1500 else text[:700] + '\n[...]\n' + text[-700:]


def must(*args, **kw):
    status, out = run(*args, **kw)
    if status:
        sys.exit('%s: status %d: %s' % (' '.join(args), status, out))
    return out


def digest(path):
    h = hashlib.sha256()
    with open(path, 'rb') as f:
        for b in iter(lambda: f.read(1 << 20), b''):
            h.update(b)
    return h.hexdigest()


def options(rnd):
    """A shape: (format, options of create, cluster, size)."""
    if rnd.random() < 0.2:
        return 'vpc', 'subformat=%s,force_size=on' % rnd.choice(['dynamic', 'dynamic', 'fixed']), 65536, \
            rnd.randrange(1, 40) << 20
    bits = rnd.choice([9, 10, 12, 12, 13, 16, 16, 18, 21])
    o = 'cluster_size=%d' % (1 << bits)
    if rnd.random() < 0.25:
        o += ',compat=0.10'
    else:
        o += ',refcount_bits=%d' % rnd.choice([1, 2, 8, 16, 16, 32, 64])
        if bits >= 14 and rnd.random() < 0.4:
            o += ',extended_l2=on'
        if rnd.random() < 0.2:
            o += ',lazy_refcounts=on'
        if rnd.random() < 0.3:
            o += ',compression_type=zstd'
    if rnd.random() < 0.15:
        o += ',preallocation=metadata'
    return 'qcow2', o, 1 << bits, (rnd.randrange(1, 10) << 20) * (1 if bits < 12 else 8) // (2 if bits < 10 else 1)


def io_lines(rnd, cluster, size, n, inner):
    out = []
    packed = rnd.random() < 0.4 # (QEMU may damage what it packs in a session in which it also frees)
    for _ in range(n):
        length = min(rnd.choice([512, cluster, cluster * rnd.randrange(1, 12), 65536]), size // 2) // 512 * 512
        off = rnd.randrange(0, size - length + 1) // 512 * 512
        k = rnd.random()
        if k < 0.5:
            out.append('write -P %d %d %d' % (rnd.randrange(1, 255), off, length))
        elif k < 0.6:
            out.append('write -z %s %d %d' % ('' if packed else rnd.choice(['', '-u']), off, length))
        elif k < 0.8 and not packed:
            out.append('discard %d %d' % (off, length))
        elif k < 0.9 and packed:
            out.append('write -c -P %d %d %d' % (rnd.randrange(1, 255), off // cluster * cluster, cluster))
        elif inner:
            n = min(os.path.getsize(inner), 8 << 20, size) // 512 * 512
            if n:
                out.append('write -s %s %d %d' % (inner, rnd.randrange(0, size - n + 1) // 4096 * 4096, n))
    return out


def qemu_io(path, fmt, lines, end=()):
    return run('qemu-io', '-d', 'unmap', '-f', fmt, path, input='\n'.join(lines + list(end)).encode() + b'\n')


def use(path, fmt, cluster, size, narrow, rnd, inner):
    """Have QEMU use an image; returns its size."""
    names = []
    for i in range(rnd.randrange(1, 6)):
        qemu_io(path, fmt, io_lines(rnd, cluster, size, rnd.randrange(1, 60), inner))
        if fmt != 'qcow2':
            continue
        k = rnd.random()
        if k < 0.35:
            # (QEMU leaks what it has raised when a narrow count is full)
            if not narrow and run('qemu-img', 'snapshot', '-c', 's%d' % i, path)[0] == 0:
                names.append('s%d' % i)
        elif k < 0.5 and names:
            must('qemu-img', 'snapshot', '-d', names.pop(rnd.randrange(len(names))), path)
        elif k < 0.65 and names:
            run('qemu-img', 'snapshot', '-a', rnd.choice(names), path) # (not with bitmaps)
        elif k < 0.75:
            run('qemu-img', 'bitmap', '--add', path, 'b%d' % i) # (version 2 has none)
        elif k < 0.85 and not names:
            more = size + (rnd.randrange(1, 8) << 20)
            if run('qemu-img', 'resize', '-f', fmt, path, str(more))[0] == 0:
                size = more
    return size, names


def kill_in(seconds, *args, **kw):
    p = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENV)
    try:
        p.stdin.write(kw.get('input', b''))
        p.stdin.flush()
    except BrokenPipeError:
        pass
    time.sleep(seconds)
    p.send_signal(signal.SIGKILL)
    p.wait()


def kill(path, cluster, size, names, narrow, rnd):
    """The last program is killed; returns which."""
    lines = io_lines(rnd, cluster, size, 80, None)
    how = rnd.choice(['io', 'abort', 'create', 'delete', 'apply', 'half', 'convert'])
    if how == 'create' and narrow:
        how = 'io'
    if how in ('delete', 'apply') and not names or how == 'half' and len(names) != 1:
        how = 'abort'
    if how == 'io':
        kill_in(rnd.random() * 0.05, 'qemu-io', '-t', 'writeback', '-f', 'qcow2', path,
                input=('\n'.join(lines) + '\n').encode())
    elif how == 'abort':
        qemu_io(path, 'qcow2', lines, ['abort'])
    elif how == 'create':
        kill_in(rnd.random() * 0.06, 'qemu-img', 'snapshot', '-c', 'killed', path)
    elif how == 'delete':
        kill_in(rnd.random() * 0.06, 'qemu-img', 'snapshot', '-d', rnd.choice(names), path)
    elif how == 'apply':
        kill_in(rnd.random() * 0.06, 'qemu-img', 'snapshot', '-a', rnd.choice(names), path)
    elif how == 'convert':
        other = path + '.other'
        kill_in(0.01 + rnd.random() * 0.1, 'qemu-img', 'convert', '-t', 'writeback', '-O', 'qcow2', '-o',
                'cluster_size=%d' % cluster, path, other)
        if os.path.exists(other):
            with open(other, 'rb') as f: # (one that was killed before it had a header is none)
                head = f.read(4)
            if head == b'QFI\xfb':
                os.replace(other, path)
            else:
                os.unlink(other)
    else: # the header forgets the only snapshot, and nothing that it names has been given free
        with open(path, 'r+b') as f:
            f.seek(60)
            f.write(bytes(12))
    return how


def disks(path, fmt):
    """What the guest sees, and each snapshot of it."""
    out = {'': run(PLATTER, 'hash', '-f', fmt, path)}
    if fmt == 'qcow2':
        for s in json.loads(must(PLATTER, 'info', '--output=json', '-f', fmt, path)).get('snapshots', []):
            out[s['name']] = run(PLATTER, 'convert', '-f', fmt, '-l', s['name'], '-O', 'raw', path, path + '.raw')[0]
            if not out[s['name']]:
                out[s['name']] = digest(path + '.raw')
                os.unlink(path + '.raw')
    return out


def is_marked(path):
    """QEMU has set the corrupt bit, which a check -r takes away if nothing is wrong."""
    with open(path, 'rb') as f:
        head = f.read(80)
    return head[7] == 3 and head[79] & 2 != 0


def judge_closed(path, fmt):
    if fmt == 'qcow2' and (run('qemu-img', 'check', '-f', fmt, path)[0] or is_marked(path) or
                           run('qemu-img', 'convert', '-f', fmt, '-O', 'raw', path, path + '.raw')[0]):
        return False # (QEMU has made it, and does not find it sound, or cannot read it, itself)
    before = digest(path)
    for command in (['check'], ['check', '-r', 'all'], ['check', '-r', 'leaks'], ['repair', '--yes']):
        status, out = run(PLATTER, *command, '-f', fmt, path)
        if fmt != 'qcow2' and command[0] == 'repair' and 'cannot be repaired' in out:
            continue
        if status:
            raise Wrong('%s of a sound image: status %d: %s' % (' '.join(command), status, out))
        if digest(path) != before:
            raise Wrong('%s has changed a sound image: %s' % (' '.join(command), out))
        if any(w in out for w in ('ERROR', 'Leaked', 'Repairing', 'to repair')):
            raise Wrong('%s of a sound image says: %s' % (' '.join(command), out))
    before = digest_of_disk(path, fmt)
    status, out = run(PLATTER, 'convert', '--rescue', '--report', path + '.json', '-f', fmt, '-O', 'raw', path, path + '.raw')
    with open(path + '.json') as f:
        report = json.load(f)
    os.unlink(path + '.json')
    if status or report['lost'] or report['inferred'] or digest(path + '.raw') != before:
        raise Wrong('convert --rescue of a sound image: status %d: %s%s' % (status, out, json.dumps(report)))
    return True


def digest_of_disk(path, fmt):
    must(PLATTER, 'convert', '-f', fmt, '-O', 'raw', path, path + '.raw')
    return digest(path + '.raw')


def judge_killed(path, how, tally):
    shutil.copyfile(path, path + '.killed')
    before = disks(path, 'qcow2')
    status, out = run(PLATTER, 'check', '-r', 'all', '-f', 'qcow2', path)
    tally[how, status] = tally.get((how, status), 0) + 1
    # (a cluster that was freed and taken again, of which only the second is on the disk: both name it)
    if status not in (0, 3) and not (status == 2 and ('is shared by 2 guest clusters' in out or
                                                      'part of the map is lost' in out and out.count('ERROR') == 1)):
        raise Wrong('killed (%s): check -r all: status %d: %s' % (how, status, out))
    if disks(path, 'qcow2') != before:
        raise Wrong('killed (%s): check -r all has changed a disk: %s' % (how, out))
    status, out = run('qemu-img', 'check', '-f', 'qcow2', path)
    if status not in (0, 3):
        raise Wrong('killed (%s): afterwards qemu-img check: status %d: %s' % (how, status, out))


def main():
    count, seed = int(sys.argv[1]), int(sys.argv[2])
    only = int(sys.argv[4]) if len(sys.argv) > 4 else None
    tally, failed, inner = {}, 0, None
    for i in range(count):
        if only is not None and i not in (only - 1, only):
            continue
        rnd = random.Random('%d %d' % (seed, i))
        path = 'image-%d.img' % i
        fmt, o, cluster, size = options(rnd)
        narrow = 'refcount_bits=1,' in o + ',' or 'refcount_bits=2,' in o + ','
        try:
            must('qemu-img', 'create', '-q', '-f', fmt, '-o', o, path, str(size))
            size, names = use(path, fmt, cluster, size, narrow, rnd, inner)
            sound = judge_closed(path, fmt)
            tally['closed', 0 if sound else 2] = tally.get(('closed', 0 if sound else 2), 0) + 1
            if sound and fmt == 'qcow2':
                judge_killed(path, kill(path, cluster, size, names, narrow, rnd), tally)
        except Wrong as w:
            failed += 1
            print('number %d of seed %d (%s): %s' % (i, seed, o, short(str(w))), flush=True)
            shutil.copyfile(path + '.killed' if os.path.exists(path + '.killed') else path, 'kept-%d.img' % i)
        for name in [inner, path + '.killed', path + '.raw']:
            if name and os.path.exists(name):
                os.unlink(name)
        inner = path
    print('# ' + ', '.join('%s: %d with status %d' % (how, n, s) for (how, s), n in sorted(tally.items())))
    sys.exit(1 if failed else 0)


main()
