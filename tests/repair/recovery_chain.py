# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
"""The cases of recovery.py that are chains of images (tests/fixtures/chain.py): damage in one layer or in two, seen at the
top, and what goes wrong between layers.

A class of damage in a layer is one of damage.py's.  The tools: `convert --rescue --report` of the top; `repair` of each
layer, or `chain repair --search`, then `convert --salvage` of the top; of qemu-img `check -r all` of each layer.
Whatever is read, no file of the chain may change but by a repair, and `undo` must give the bytes back.
"""
import hashlib
import json
import os
import random
import shutil
import time

import chain
import damage
import image
import judge

SHAPES = chain.SHAPES
# Of a layer: what hurts its map or its header, but not the name of its backing file.  (One entry that is cleared lets the
# block below show, which is no less sound: only a cluster that nothing reaches says so, and the exit status 3.)
HURT = {'qcow2': ('Q-L1-1', 'Q-L1-2', 'Q-L1-3', 'Q-L1-5', 'Q-L1-8', 'Q-L2-1', 'Q-L2-2', 'Q-L2-3', 'Q-ENT-BEYOND',
                  'Q-ENT-UNALIGNED', 'Q-REF-1', 'Q-REF-10', 'Q-TRUNC-2', 'Q-HDR-1', 'Q-HDR-F-BITS',
                  'Q-HDR-F-RTOFF'),
        'vpc': ('V-FTR-1', 'V-FTR-2', 'V-FTR-3', 'V-FTR-4', 'V-HDR-3', 'V-BAT-2', 'V-BAT-3', 'V-BAT-4', 'V-BAT-6', 'V-BAT-7',
                'V-TRUNC-1', 'V-TRUNC-3'),
        'raw': ()}


class Class:
    def __init__(self, run, text, data=False):
        self.run, self.text, self.data = run, text, data


def layer(*names):
    def run(case):
        for name in names or case.rnd.sample(chain.LAYERS, 2):
            case.hurt(name)
    return run


def others(case):
    """What lies beside the right one: a version that was written to since, its child, another disk, one of another size."""
    c = case.sound.chain
    fmt = c.format('base')
    raw = case.path('.raw')
    with open(c.older, 'rb') as f:
        disk = f.read()
    written = bytearray(disk)
    free = [i for i in range(1 << 20, len(disk), 4096) if i in c.covers['base'] and disk[i:i + 4096] != bytes(4096)]
    for at in case.rnd.sample(free, len(free) // 8):
        written[at:at + 4096] = case.rnd.randbytes(4096)
    if case.sound.guest.name == 'ext4':
        written = mounted(disk, raw)
    for name, data, size in (('written', written, len(disk)), ('longer', disk, len(disk) + (8 << 20)),
                             ('another', case.rnd.randbytes(1 << 20), len(disk))):
        with open(raw, 'wb') as f:
            f.write(data)
            f.truncate(size)
        case.platter('convert', '-f', 'raw', '-O', fmt, *(['-o', 'force_size=on'] if fmt == 'vpc' else []), raw, case.path(name))
    os.unlink(raw)
    case.touched('written')
    chain.create(case.top, 'sibling', 'q4k-backing', 'written', fmt)
    case.say('beside: another version, its child, another disk, another size')


def mounted(disk, path):
    """As another guest leaves it that has it mounted."""
    with open(path, 'wb') as f:
        f.write(disk)
    later = dict(os.environ, E2FSPROGS_FAKE_TIME=str(int(time.time()) + 3600))
    for command in ('mkdir new', 'write /etc/passwd new/file'):
        image.run('debugfs', '-w', '-R', command, path + '?offset=1048576', env=later)
    with open(path, 'rb') as f:
        return f.read()


def lost(case):
    others(case)
    case.search = '.'
    case.rename('base', 'x%d' % case.rnd.randrange(1000))


def gone(case):
    os.unlink(case.path('base'))
    case.kill(case.sound.chain.covers['base'])
    case.say('base is deleted')


def moved(case):
    """The whole tree is somewhere else, and the image records where it was."""
    c = case.sound.chain
    case.search = 'store'
    os.makedirs(case.path('gone/store'))
    os.rename(case.path('base'), case.path('gone/store/base'))
    case.untouched('mid', lambda: case.platter('rebase', '-u', '-f', c.format('mid'), '-b', case.path('gone/store/base'), '-F',
                                               c.format('base'), case.path('mid')))
    os.rename(case.path('gone/store'), case.path('store'))
    os.rmdir(case.path('gone'))
    case.say('base is store/base, and was gone/store/base')


def rebased(case):
    """rebase -u has left a layer out."""
    c = case.sound.chain
    case.untouched('top', lambda: case.platter('rebase', '-u', '-f', c.format('top'), '-b', 'base', '-F', c.format('base'),
                                               case.path('top')))
    case.search = '.'
    case.say('top records base, and not mid')


def written(case):
    """The base is written to by another program: what it had there is gone."""
    c = case.sound.chain
    at = sorted(c.covers['base'] & set(c.truth.blocks))
    mine = set(case.rnd.sample(at, len(at) // 64))
    chain.write(case.top, 'base', c.shapes['base'], case.junk(), mine, case.rnd)
    case.kill(mine)
    case.touched('base')
    case.say('%d blocks of base are written over', len(mine))


def sibling(case, stop):
    """Another image on the same base is committed into it."""
    c = case.sound.chain
    at = sorted(c.covers['base'] & set(c.truth.blocks))
    start = case.rnd.randrange(len(at) // 2)
    mine = at[start:start + len(at) // 8]
    chain.create(case.top, 'other', 'q4k-backing', 'base', c.format('base'))
    chain.write(case.top, 'other', 'q4k-backing', case.junk(), mine, case.rnd)
    if stop:
        mine = mine[:len(mine) * 2 // 3]
        chain.write(case.top, 'base', c.shapes['base'], case.junk(), mine, case.rnd)
    else:
        case.platter('commit', '-q', '-d', '-f', 'qcow2', case.path('other'))
    case.kill(set(mine))
    case.touched('base')
    case.say('another image on base is committed into it%s: %d blocks', ', in part' if stop else '', len(mine))


def half_commit(case):
    """A commit of the top into mid has stopped: what it has copied is what the top has."""
    c = case.sound.chain
    mine = sorted(c.covers['top'])
    chain.write(case.top, 'mid', c.shapes['mid'], c.raw, mine[:len(mine) * 2 // 3], case.rnd)
    case.touched('mid')
    case.say('two thirds of top are in mid')


CLASSES = {
    'C-LAYER-BASE': Class(layer('base'), 'the lowest layer is damaged'),
    'C-LAYER-MID': Class(layer('mid'), 'the layer in the middle is damaged'),
    'C-LAYER-TOP': Class(layer('top'), 'the top is damaged'),
    'C-LAYER-TWO': Class(layer(), 'two layers are damaged'),
    'C-LOST': Class(lost, 'the base has another name, among its likenesses'),
    'C-GONE': Class(gone, 'the base is not there any more', True),
    'C-MOVED': Class(moved, 'the base is in another folder'),
    'C-REBASE': Class(rebased, 'another base is recorded'),
    'C-CHANGED': Class(written, 'the base has been written to', True),
    'C-COMMIT': Class(lambda case: sibling(case, False), 'another image was committed into the base', True),
    'C-COMMIT-PART': Class(lambda case: sibling(case, True), 'such a commit has stopped', True),
    'C-COMMIT-OWN': Class(half_commit, 'a commit of the top has stopped'),
}


class Sound:
    """What the tables want to know of an image."""

    def __init__(self, guest, shape, seed, folder):
        self.guest, self.shape, self.format = guest, shape, 'chain'
        self.chain = chain.Chain(shape, guest.raw, seed, folder)
        os.rename(folder, folder + '.sound') # (VHDs record where their parent lies: here it does no more)
        self.chain.folder = folder + '.sound'


class Case:
    """One chain, damaged in one way; as recovery.Case."""

    def __init__(self, sound, name, seed, top, tools):
        self.sound, self.names, self.seed, self.top = sound, [name], seed, os.path.join(top, 'broken')
        self.tools, self.run = tools, tools.run
        self.rnd = random.Random('%s %d' % (name, seed))
        self.bad, self.results, self.checked = [], {}, None
        self.d = self
        self.said, self.data = [], b''
        self.search = None
        self.gone, self.payload = set(), set()
        os.mkdir(self.top)
        for n in chain.LAYERS: # (each is written before the next one is made)
            shutil.copyfile(sound.chain.path(n), self.path(n))
        try:
            CLASSES[name].run(self)
        except damage.NotHere:
            shutil.rmtree(self.top)
            raise

    def __str__(self):
        return '%s %s %s seed %d' % (self.names[0], self.sound.guest.name, self.sound.shape, self.seed)

    def path(self, name):
        return os.path.join(self.top, name)

    def say(self, text, *args):
        self.said.append(text % args)

    def platter(self, *args):
        status, out = self.run(self.tools.PLATTER, *args)
        if status:
            raise RuntimeError('%s: %s' % (' '.join(args), out))

    def hurt(self, name):
        """One layer gets a damage of its own."""
        names = list(HURT[self.sound.chain.format(name)])
        self.rnd.shuffle(names)
        for n in names:
            try:
                d = damage.damage([n], self.sound.chain.data[name], self.seed, None, self.sound.chain.images[name])
            except damage.NotHere:
                continue
            self.untouched(name, lambda data=d.data: self.tools.write_sparse(self.path(name), data))
            self.said.append('%s: %s' % (name, n))
            self.said += d.said
            dead, payload = self.sound.chain.dead(name, d)
            self.gone |= dead
            self.payload |= payload
            return
        raise damage.NotHere

    def kill(self, blocks):
        self.gone |= blocks & set(self.sound.chain.truth.blocks)

    def touched(self, name):
        """It is written to after all that stands on it was, by more than a clock that counts seconds can miss."""
        now = time.time() + 5
        os.utime(self.path(name), (now, now))

    def untouched(self, name, how):
        """What breaks on a disk changes no time."""
        sb = os.stat(self.path(name))
        how()
        os.utime(self.path(name), ns=(sb.st_atime_ns, sb.st_mtime_ns))

    def rename(self, name, to):
        os.rename(self.path(name), self.path(to))
        self.say('%s is %s', name, to)

    def junk(self):
        """A raw disk of nothing that the guest has had."""
        name = self.path('.junk')
        if not os.path.exists(name):
            with open(name, 'wb') as f:
                f.truncate(self.sound.chain.size)
                for b in sorted(self.sound.chain.covers['base']):
                    f.seek(b)
                    f.write(self.rnd.randbytes(4096))
        return name

    # ---- what the tools make of it ----

    def digests(self):
        out = {}
        for folder, _, names in os.walk(self.top):
            for n in names:
                if not n.startswith('.') and '.platter-undo' not in n and n != 'out':
                    with open(os.path.join(folder, n), 'rb') as f:
                        out[os.path.join(folder, n)] = hashlib.sha256(f.read()).digest()
        return out

    def crashed(self, what, status, text):
        if status < 0 or status > 100 or 'Sanitizer' in text or 'runtime error:' in text:
            self.bad.append('%s: status %d: %s' % (what, status, text[-600:]))

    def judged(self, out, lost=(), inferred=()):
        v = judge.judge(self.sound.chain.truth, self.gone, self.payload, out if os.path.exists(out) else None, lost, inferred)
        if os.path.exists(out):
            os.unlink(out)
        return v

    def salvage(self, program, tool, first, seconds, named=([], [])):
        status, text = self.run(program, 'convert', '--salvage', '-f', self.sound.chain.format('top'), '-O', 'raw', self.path('top'),
                                self.path('out'))
        if status and os.path.exists(self.path('out')):
            os.unlink(self.path('out'))
        if program != 'qemu-img':
            self.crashed('convert', status, text)
        lost = [(int(at), int(n or 512)) for at, n in self.tools.WARNING.findall(text)]
        self.results[tool] = (self.judged(self.path('out'), lost + named[0], named[1]), [first, status], seconds)

    def rescue(self):
        program, report = self.tools.PLATTER, self.path('.report')
        t, (status, text) = timed(self.run, program, 'convert', '--rescue', '--report', report, '-f', self.sound.chain.format('top'),
                                  '-O', 'raw', self.path('top'), self.path('out'))
        self.crashed('convert --rescue', status, text)
        self.results['rescue'] = (self.judged(self.path('out'), *self.tools.lists(report)), [status], t)
        if os.path.exists(report):
            os.unlink(report)

    def repair(self, program):
        """(status, seconds, (lost, inferred)): what there is for this damage, and what it names."""
        report = self.path('.report')
        if self.search:
            commands = [(program, 'chain', 'repair', '--yes', '--search', self.path(self.search), self.path('top'))]
        elif self.names[0].startswith(('C-C', 'C-GONE')): # nothing to be mended: what is said of it
            commands = [(program, 'chain', 'verify', '--output=json', self.path('top'))]
        else:
            commands = [(program, 'repair', '-q', '--yes', '--report', report, *self.tools.DEEP, '-f', self.sound.chain.format(n),
                         self.path(n)) for n in chain.LAYERS if os.path.exists(self.path(n))]
        worst, seconds, lost, inferred = 0, 0, [], []
        for c in commands:
            t, (status, text) = timed(self.run, *c)
            self.crashed(c[1], status, text)
            worst, seconds = max(worst, status), seconds + t
            for mine, more in zip((lost, inferred), self.tools.lists(report)): # (a layer's bytes are the top's)
                mine += more
            if 'verify' in c and status in (0, 2):
                for change in json.loads(text[text.index('{'):text.rindex('}') + 1])['changes']:
                    inferred += [(x['start'], x['length']) for x in change['ranges']]
            if os.path.exists(report):
                os.unlink(report)
        return worst, seconds, (lost, inferred)

    def undo(self):
        for folder, _, names in os.walk(self.top):
            for n in sorted(names):
                if n.endswith('.platter-undo'):
                    status, text = self.run(self.tools.PLATTER, 'undo', '-q', os.path.join(folder, n))
                    if status:
                        self.bad.append('undo: ' + text)

    def go(self, top, peer, cuts):
        program, deep = self.tools.PLATTER, self.tools.DEEP
        before = self.digests()
        self.salvage(program, 'before', 1, 0)
        self.rescue()
        if deep:
            self.checked, text = self.run(program, 'check', '-q', '--deep', '-f', self.sound.chain.format('top'), self.path('top'))
            self.crashed('check --deep', self.checked, text)
        if self.digests() != before:
            self.bad.append('reading has changed a file')
        first, t, named = self.repair(program)
        self.salvage(program, 'repair', first, t, named)
        self.undo()
        if self.digests() != before:
            self.bad.append('undo does not give the bytes back')
        if peer:
            for n in chain.LAYERS:
                if os.path.exists(self.path(n)):
                    first, _ = self.run('qemu-img', 'check', '-q', '-r', 'all', '-f', self.sound.chain.format(n), self.path(n))
            self.salvage('qemu-img', 'qemu-img', first, 0)
        shutil.rmtree(self.top)


def timed(fn, *args):
    t = time.monotonic()
    out = fn(*args)
    return time.monotonic() - t, out


def each_case(args, guest_of, top, tools):
    """Each class on --times chains."""
    names = [n for n in CLASSES if not args.classes or any(n == c or c.endswith('-') and n.startswith(c) for c in args.classes)]
    pairs = [(g, s) for s in SHAPES if s in args.shapes for g in args.guests]
    rnd = random.Random(args.seed)
    rnd.shuffle(pairs)
    todo = []
    turn = 0
    for name in names if pairs else []:
        for _ in range(min(args.times, len(pairs))):
            first = turn % len(pairs)
            todo.append((pairs[first:] + pairs[:first], name, args.case_seed or args.seed * 1000 + turn))
            turn += 1
    last = None
    for mine, name, seed in sorted(todo):
        for attempt, (g, s) in enumerate(mine[:4]): # (a raw layer has nothing that could be hurt)
            if last is None or (last.guest.name, last.shape) != (g, s):
                shutil.rmtree(os.path.join(top, 'chain.sound'), ignore_errors=True)
                last = Sound(guest_of(g), s, args.seed, os.path.join(top, 'chain'))
            try:
                yield Case(last, name, seed + attempt * 100000, top, tools)
                break
            except damage.NotHere:
                pass
