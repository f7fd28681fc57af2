#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
"""How much of damaged images is brought back, by platter and by qemu-img.

    recovery.py [--seed N] [--guests ext4,xfs,...] [--shapes q4k,...] [--classes Q-L1-1,...] [--times N] [--every N]
                [--damages N] [--pairs N] [--case-seed N] [--cuts N] [--mib N] [--filling KIND] [--no-peer] [--deep]
                [--markdown FILE] [--states FILE] [--keep DIR] [-v]

Guests are made (tests/fixtures/guest.py), images of them (image.py), each is broken in each way (damage.py), on
--times pairs of guest and shape that the seed chooses, by --damages classes at once, --every Nth of all (--classes Q-HDR- are all of them), or
--pairs of classes that the seed takes from all that there are (of which one is of --classes); what each tool then gives back is
judged block by block (judge.py).  platter: `convert --rescue --report` where it has that, and `repair`, whose result is
read with `convert --salvage`, which `undo` must take back to the byte, and of which --cuts interruptions must be
finished and taken back (cuts.py).  qemu-img: `check -r all`, then `convert
--salvage`.  Both are told the format.  With --deep `check --deep` has to see what is wrong.  --states writes one line a case: the case, and what platter made of it: whole,
part (something is missing, and it said so) or silent.  A case that -v shows is run again by --case-seed with its seed
beside the same --seed, guest, shape and class.  $PLATTER is the program; the exit status is 1 if undo failed, a
program crashed or took more than half a minute.
"""
import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
FIXTURES = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'fixtures')
sys.path[:0] = [FIXTURES, os.path.dirname(os.path.abspath(__file__))]
import cuts # noqa: E402
import damage # noqa: E402
import damage_raw # noqa: E402
import image # noqa: E402
import judge # noqa: E402
import recovery_chain # noqa: E402
import recovery_table # noqa: E402

GUESTS = {'ext4': 128, 'xfs': 384, 'ntfs': 128, 'vfat': 128}
LIMIT = 30
# qemu-img says it of each sector, platter of a range.
WARNING = re.compile(r'error while reading offset (\d+):(?:.*?\((\d+) bytes are zeros)?')
SNAPSHOT = ('Q-SNAP',) # classes of which the snapshot is judged, too


def run(*args):
    """(exit status, output); a program that takes too long counts as killed."""
    try:
        p = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                           timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return -99, 'took more than %d s' % LIMIT
    return p.returncode, p.stdout.decode(errors='replace')


class Guest:
    def __init__(self, name, mib, seed, top):
        self.name = name
        # (not beside the images: nobody has another copy of the disk there)
        self.raw = os.path.join(top, 'guests', name + '.raw')
        os.makedirs(os.path.dirname(self.raw), exist_ok=True)
        status, out = run(sys.executable, '-B', os.path.join(FIXTURES, 'guest.py'), name, str(mib), str(seed), self.raw,
                          '0', 'old', 'fill=%g' % min(6, 800 / mib))
        if status:
            sys.exit('%s cannot be made: %s' % (name, out))


class Sound:
    """A sound image of a guest in a shape, and what is true of it."""

    def __init__(self, guest, shape, seed, top):
        self.guest, self.shape = guest, shape
        self.format = image.SHAPES[shape][0]
        self.path = os.path.join(top, '%s-%s.img' % (guest.name, shape))
        image.make(shape, guest.raw, seed, self.path)
        with open(self.path, 'rb') as f:
            self.data = f.read()
        if 'backing' in image.SHAPES[shape][2]: # (it is no candidate for what it stands on)
            os.unlink(self.path)
        letter = {'qcow2': 'Q', 'vpc': 'V', 'raw': 'R'}[self.format]
        self.image = damage.parse(letter, self.data)
        self.truth = judge.Truth(self.path if 'lvm' in image.SHAPES[shape][2] else guest.raw, self.image.sources())
        self.before = None
        if letter == 'Q' and self.image.snapshots:
            s = self.image.snapshots[0]
            self.before = judge.Truth(guest.raw + '.old', self.image.sources(s))


def write_sparse(path, data):
    with open(path, 'wb') as f:
        for at in range(0, len(data), 65536):
            b = data[at:at + 65536]
            if b.count(0) != len(b):
                f.seek(at)
                f.write(b)
        f.truncate(len(data))


def remove(*names):
    for name in names:
        if os.path.exists(name):
            os.unlink(name)


def remove_journals(path):
    for name in os.listdir(os.path.dirname(path)):
        if '.platter-undo' in name:
            os.unlink(os.path.join(os.path.dirname(path), name))


def warnings(text):
    """What convert --salvage says that it could not read, as offset and length."""
    return [(int(at), int(n or 512)) for at, n in WARNING.findall(text)]


def lists(report, snapshot=False):
    """([lost], [inferred]) of a report, as offset and length; @snapshot: of the one that images here have."""
    if not os.path.exists(report):
        return [], []
    with open(report) as f:
        said = json.load(f)
    if snapshot:
        said = (said.get('snapshots') or [{}])[0]
    return [[(r['start'], r['length']) for r in said.get(k, [])] for k in ('lost', 'inferred')]


class Case:
    """One image, broken in one way; what became of it."""

    def __init__(self, sound, names, seed, filling=None):
        self.sound, self.names, self.seed = sound, names, seed
        self.d = damage.damage(names, sound.data, seed, filling, sound.image)
        self.changed = damage.changed(sound.data, self.d.data) if not self.d.shift else []
        self.dead, self.payload = sound.truth.dead(self.changed, len(self.d.data))
        if sound.format == 'raw' and not self.d.unread: # what copies elsewhere on the disk say again is not lost
            self.dead -= self.payload
            self.payload = set()
        self.old = sound.before.dead(self.changed, len(self.d.data)) if sound.before else None
        self.bad = []     # what must not be, whatever the damage
        self.results = {} # tool: (Verdict, exit statuses, seconds)
        # (without the word nothing is done)
        self.how = ['repair', '-q', '--yes'] + (['--ignore-feature', '40'] if 'Q-HDR-F-FEATURE' in names else [])
        self.checked = None # by check --deep: its exit status

    def __str__(self):
        return '%s %s %s seed %d' % (','.join(self.names), self.sound.guest.name, self.sound.shape, self.seed)

    def named(self, path):
        return image.named(self.sound.shape, path)

    def judged(self, out, status, lost=(), inferred=(), mapped=False):
        # who has a map of what does not read has to name it
        v = judge.judge(self.sound.truth, self.dead, set() if mapped else self.payload, out if os.path.exists(out) else None,
                        lost, inferred)
        if self.sound.format == 'raw' and not self.d.unread:
            self.usable(v, out, status)
        return v

    def usable(self, v, out, status):
        """Of a disk whose own tables are damaged nobody has anything until partition and filesystem are found."""
        if damage_raw.usable(out, self.sound.image):
            v.right, v.silent, v.inferred_wrong = v.survive, 0, 0
        elif status:
            v.missing, v.right, v.silent = v.survive, 0, 0
        else:
            v.silent, v.right = v.survive, 0

    def snapshot(self, program, path, out, *how, named=None):
        """The snapshot's verdict, for the classes that hurt snapshots; @named: what repair has said of it."""
        v = judge.Verdict()
        if not self.old or not self.names[0].startswith(SNAPSHOT):
            return v
        report = path + '.json'
        for name in ('before', 'snap-recovered-1'): # (its name may be gone)
            status, text = run(program, 'convert', *(how or ['--salvage']), *(['--report', report] if how else []), '-l', name,
                               '-O', 'raw', *self.named(path), out)
            if status in (0, 2, 3):
                break
        lost, inferred = lists(report) if how else named or ([], [])
        v = judge.judge(self.sound.before, *self.old, out if status in (0, 2, 3) and os.path.exists(out) else None,
                        lost + warnings(text), inferred)
        remove(out, report)
        return v

    def crashed(self, what, status, text):
        if status < 0 or status > 100 or 'Sanitizer' in text or 'runtime error:' in text:
            self.bad.append('%s: status %d: %s' % (what, status, text[-600:]))

    def read(self, program, path, out):
        """convert --salvage, and what it says it could not read."""
        status, text = run(program, 'convert', '--salvage', '-O', 'raw', *self.named(path), out)
        if status:
            remove(out)
        return status, warnings(text), text

    def in_place(self, tool, program, path, *repair):
        """As it is, or repaired; what platter's repair names as lost or inferred, its report says."""
        out, report = path + '.out', path + '.report.json'
        if repair and program == PLATTER:
            repair += ('--report', report)
        t = time.monotonic()
        first, text = run(program, *repair, *self.named(path)) if repair else (1, '')
        t = time.monotonic() - t
        if program == PLATTER:
            self.crashed(tool, first, text)
        status, lost, text2 = self.read(program, path + '.new' if os.path.exists(path + '.new') else path, out)
        remove(path + '.new')
        if program == PLATTER:
            self.crashed('convert', status, text2)
        named, inferred = lists(report)
        v = self.judged(out, first, lost + named, inferred)
        remove(out)
        v.add(self.snapshot(program, path, out, named=lists(report, True)))
        remove(report)
        self.results[tool] = (v, [first, status], t)

    def rescue(self, path):
        out, report = path + '.out', path + '.json'
        t = time.monotonic()
        how = ['--map', path + '.map'] if self.d.unread else []
        status, text = run(PLATTER, 'convert', '--rescue', *how, '--report', report, '-O', 'raw', *self.named(path), out)
        t = time.monotonic() - t
        self.crashed('convert --rescue', status, text)
        if status not in (0, 2, 3):
            remove(out)
        v = self.judged(out, status, *lists(report), bool(self.d.unread))
        remove(out, report)
        v.add(self.snapshot(PLATTER, path, out, '--rescue'))
        self.results['rescue'] = (v, [status], t)
        with open(path, 'rb') as f:
            if f.read() != self.d.data:
                self.bad.append('convert --rescue has changed the image')

    def undo(self, path):
        """Gives the journal's bytes, if there was one."""
        name, journal = path + '.platter-undo', None
        if os.path.exists(name):
            with open(name, 'rb') as f:
                journal = f.read()
            status, text = run(PLATTER, 'undo', '-q', name)
            if status:
                self.bad.append('undo: ' + text)
        with open(path, 'rb') as f:
            if f.read() != self.d.data:
                self.bad.append('undo does not give the bytes back')
        return journal

    def cut(self, path, after, journal, n):
        """The repair was interrupted: it is finished, or taken back, to the byte."""
        rnd = random.Random('%s' % self)
        name = path + '.platter-undo'
        for what, image, part in cuts.states(bytes(self.d.data), after, journal, rnd, n):
            for command, want in (([*self.how, *self.named(path)], after),
                                  (['undo', '-q', name], bytes(self.d.data))):
                if command[0] == 'undo' and what.startswith('while'):
                    continue
                write_sparse(path, image)
                with open(name, 'wb') as f:
                    f.write(part)
                status, text = run(PLATTER, *command)
                self.crashed(command[0], status, text)
                with open(path, 'rb') as f:
                    got = f.read()
                if got != want and command[0] == 'repair':
                    want = self.again(path, after) # (what was finished is looked at once more)
                # (a footer that has to be made anew gets a new unique id each time)
                anew = what.startswith('while') and self.sound.format == 'vpc' and \
                    status == self.results['repair'][1][0]
                if got != want and not anew:
                    self.bad.append('cut (%s): %s ends otherwise, with status %d: %s' % (what, command[0], status, text))
                remove_journals(path)

    def again(self, path, after):
        """The repaired image, repaired."""
        remove_journals(path)
        write_sparse(path, after)
        run(PLATTER, *self.how, *self.named(path))
        with open(path, 'rb') as f:
            return f.read()

    def go(self, top, peer, cut):
        path = os.path.join(top, 'broken.img')
        base = self.sound.path + '.base'
        if os.path.exists(base) and not os.path.exists(os.path.join(top, os.path.basename(base))):
            os.link(base, os.path.join(top, os.path.basename(base)))
        write_sparse(path, self.d.data)
        for suffix, what in self.d.beside.items():
            write_sparse(path + suffix, what)
        if self.d.unread:
            with open(path + '.map', 'wb') as f:
                f.write(damage.map_of(self.d))
        if peer or DEEP:
            self.in_place('before', PLATTER, path)
        if RESCUE:
            self.rescue(path)
        if RESCUE and DEEP:
            status, text = run(PLATTER, 'check', '-q', '--deep', *self.named(path))
            self.crashed('check --deep', status, text)
            self.checked = None if self.d.unread else status # (it has no map)
        # (what is not where the file begins no repair in place moves)
        self.in_place('repair', PLATTER, path, *self.how, *(['--output', path + '.new'] if self.d.shift else []))
        self.check_after(path)
        with open(path, 'rb') as f:
            after = f.read()
        if TWICE:
            self.twice(path, after)
        journal = self.undo(path)
        if journal and cut:
            self.cut(path, after, journal, cut)
        if peer:
            write_sparse(path, self.d.data)
            self.in_place('qemu-img', 'qemu-img', path, 'check', '-q', '-r', 'all')
        remove(path, path + '.map', *(path + suffix for suffix in self.d.beside))

    def twice(self, path, after):
        """In what has been repaired there is nothing to be repaired; what is open may be less than what was lost."""
        first = self.results['repair'][1][0]
        status, text = run(PLATTER, 'repair', '--yes', *DEEP, '-f', self.sound.format, path)
        self.crashed('repair of what was repaired', status, text)
        with open(path, 'rb') as f:
            if f.read() != after:
                self.bad.append('repaired (status %d) once more (status %d), it is another image: %s' %
                                (first, status, text[-900:]))
            elif first != 1 and (status == 1 or first == 0 and status == 2):
                self.bad.append('repair ended with %d, and once more with %d: %s' % (first, status, text[-900:]))
        if os.path.exists(path + '.platter-undo.2'):
            run(PLATTER, 'undo', '-q', path + '.platter-undo.2')

    def check_after(self, path):
        """What qemu-img finds in what repair has left, when repair says that nothing is wrong."""
        if self.sound.format != 'qcow2' or self.results['repair'][1][0] or 'Q-EXT-1' in self.names:
            return # (QEMU wants the data file to be there)
        status, text = run('qemu-img', 'check', '-q', *self.named(path))
        if status not in (0, 3):
            self.bad.append('repair says that all is right, and qemu-img check: ' + text[-600:])


# ---- which cases ---------------------------------------------------------------------------------

def fits(name, shape):
    """Might the shape have what the class hurts?"""
    letter = {'qcow2': 'Q', 'vpc': 'V', 'raw': 'R'}[image.SHAPES[shape][0]]
    words = image.SHAPES[shape][2]
    return name[0] == letter and ((not name.startswith('Q-SNAP') or 'snapshot' in words) and
                                  (not name.startswith(('Q-CMP', 'Q-OVL-PACKED')) or 'packed' in words) and
                                  name.startswith('R-LVM') == ('lvm' in words) and
                                  (not name.startswith('Q-LUKS') or 'luks' in words) and
                                  (not name.startswith('Q-BMP') or 'bitmap' in words) and
                                  ('external' in words if name.startswith('Q-EXT') else 'external' not in words or
                                   name.startswith(('Q-HDR', 'Q-L1', 'Q-L2', 'Q-REF', 'Q-2'))))


def plan(args, rnd):
    """[([(guest, shape)], class, seed)]: pairs take turns, so that all are used by many classes; the first pair that has
    what the class hurts will do."""
    table = damage.classes()
    names = [(n,) for n in table if not args.classes or
             any(n == c or c.endswith('-') and n.startswith(c) for c in args.classes)]
    if args.pairs:
        both = sorted({tuple(sorted((a, b))) for a, in names for b in table if a != b and a[0] == b[0]})
        names = rnd.sample(both, min(args.pairs, len(both)))
    pairs = [(g, s) for s in args.shapes if s in image.SHAPES for g in args.guests]
    rnd.shuffle(pairs)
    out = []
    turn = 0
    for name in names:
        mine = [p for p in pairs if all(fits(n, p[1]) for n in name)]
        for _ in range(min(args.times, len(mine))):
            first = turn % len(mine)
            out.append((mine[first:] + mine[:first], name, args.case_seed or args.seed * 1000 + turn))
            turn += 1
    out = out[args.seed % args.every::args.every]
    return sorted(out, key=lambda c: c[0][0]) # (one sound image at a time)


class Images:
    """Sound images: the last one is kept, for most cases ask for the one that the case before had."""

    def __init__(self, args, top):
        self.args, self.top = args, top
        self.guests, self.last = {}, None

    def guest(self, g):
        if g not in self.guests:
            self.guests[g] = Guest(g, self.args.mib or GUESTS[g], self.args.seed, self.top)
        return self.guests[g]

    def get(self, g, s):
        if not self.last or (self.last.guest.name, self.last.shape) != (g, s):
            self.last = None
            for name in os.listdir(self.top):
                if '.img' in name:
                    os.unlink(os.path.join(self.top, name))
            self.last = Sound(self.guest(g), s, self.args.seed, self.top)
        return self.last


def each_case(args, rnd, top):
    images = Images(args, top)
    later = [] # what the image that was asked for did not have: another one each
    for pairs, name, seed in plan(args, rnd):
        case = first_case(images, pairs[:1], name, seed, args)
        if case:
            yield case
        else:
            later.append((pairs[1:], name, seed))
    for pairs, name, seed in later:
        case = first_case(images, pairs, name, seed, args)
        if case:
            yield case
    yield from recovery_chain.each_case(args, images.guest, top, sys.modules[__name__])


def first_case(images, pairs, names, seed, args):
    """The first that can be made; with more damages at once the others are of any class that the image can have."""
    for g, s in pairs:
        for attempt in range(4):
            more = [n for n in damage.classes() if n not in names and fits(n, s)]
            more = random.Random(seed + attempt).sample(more, min(len(more), args.damages - 1))
            try:
                return Case(images.get(g, s), list(names) + more, seed + attempt * 100000, args.filling)
            except damage.NotHere:
                pass
    return None


def main():
    p = argparse.ArgumentParser()
    p.add_argument('--seed', type=int, default=int(os.environ.get('PLT_SEED', 7)))
    for name, default in (('guests', ','.join(GUESTS)), ('shapes', ','.join((*image.SHAPES, *recovery_chain.SHAPES))), ('classes', '')):
        p.add_argument('--' + name, type=lambda t: t.split(',') if t else [], default=default)
    p.add_argument('--times', type=int, default=2)
    p.add_argument('--every', type=int, default=1)
    p.add_argument('--damages', type=int, default=1)
    p.add_argument('--pairs', type=int, default=0)
    p.add_argument('--cuts', type=int, default=0)
    p.add_argument('--mib', type=int, default=0)
    p.add_argument('--case-seed', type=int)
    p.add_argument('--filling')
    p.add_argument('--no-peer', action='store_true')
    p.add_argument('--deep', action='store_true')
    p.add_argument('--twice', action='store_true')
    p.add_argument('--markdown')
    p.add_argument('--states')
    p.add_argument('--keep')
    p.add_argument('-v', '--verbose', action='store_true')
    args = p.parse_args()
    DEEP.extend(['--deep'] if args.deep else [])
    TWICE.extend(['twice'] if args.twice else [])
    args.version = run(PLATTER, '--version')[1].split()[-1]
    os.environ['PATH'] += ':/usr/sbin:/sbin'
    top = tempfile.mkdtemp(prefix='recovery.')
    cases = []
    try:
        for case in each_case(args, random.Random(args.seed), top):
            case.go(top, not args.no_peer, args.cuts)
            cases.append(case)
            if args.verbose or case.bad:
                print(recovery_table.line(case), flush=True)
                print('    ' + '\n    '.join(case.d.said))
            if args.keep:
                write_sparse(os.path.join(args.keep, 'broken-%d.img' % len(cases)), case.d.data)
            case.d = case.dead = case.payload = None # (large)
    finally:
        shutil.rmtree(top)
    recovery_table.show(cases, args, RESCUE)
    sys.exit(1 if any(c.bad for c in cases) else 0)


PLATTER = os.environ.get('PLATTER', 'platter')
RESCUE = False
DEEP, TWICE = [], []
if __name__ == '__main__':
    RESCUE = '--rescue' in run(PLATTER, 'convert', '--help')[1]
    main()
