# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
"""The tables of recovery.py: a line a case, a line a class, and docs/recovery.md."""
import re
import subprocess

import chain
import damage
import image
import judge
import recovery_chain

TOOLS = ('before', 'rescue', 'repair', 'qemu-img')
HEAD = {'before': 'as it is', 'rescue': '`--rescue`', 'repair': '`repair`', 'qemu-img': 'qemu-img'}


def percent(a, b):
    return '-' if not b else '%.1f' % (int(a * 1000 / b) / 10)


def line(case):
    """One case: each tool's share of the blocks that survive, and what it got wrong."""
    out = ['%-60s' % case]
    if case.checked is not None:
        out.append('check --deep: %d' % case.checked)
    for tool in TOOLS[1:]:
        if tool not in case.results:
            continue
        v, status, t = case.results[tool]
        out.append('%s %s%% of %d%s%s%s (%s; %.1fs)' % (
            tool, percent(v.right, v.survive), v.survive,
            ', named %d' % v.named if v.named else '', ', SILENT %d at %#x' % (v.silent, v.first or 0) if v.silent else '',
            ', inferred %d wrong %d' % (v.inferred, v.inferred_wrong) if v.inferred else '',
            ' '.join(map(str, status)), t))
    return '  '.join(out) + ('\n    WORSE: ' + worse_text(case) if worse(case) else '') + ''.join(
        '\n    BAD: ' + b for b in case.bad)


class Sum(judge.Verdict):
    """Of many cases, what one tool made of them."""

    def __init__(self, cases, tool):
        super().__init__()
        self.n = self.nwhole = self.unsaid = self.seconds = 0
        for c in cases:
            if tool not in c.results:
                continue
            v, status, t = c.results[tool]
            self.add(v)
            self.n += 1
            self.nwhole += v.whole
            self.unsaid += v.silent if status[0] == 0 else 0
            self.seconds += t


def texts():
    return {**damage.classes(), **recovery_chain.CLASSES}


def by_class(cases):
    """[(name of the class, its cases)] in the catalogue's order; of several damages the first counts."""
    order = {n: i for i, n in enumerate(texts())}
    names = {}
    for c in cases:
        names.setdefault(c.names[0], []).append(c)
    return sorted(names.items(), key=lambda x: order[x[0]])


def class_table(cases, tools):
    out = ['| class | what | cases | blocks |' + ''.join(' %s: right | whole | silent |' % HEAD[t] for t in tools),
           '|---|---|--:|--:|' + '--:|--:|--:|' * len(tools)]
    for name, mine in by_class(cases):
        what = texts()[name]
        row = '| %s | %s%s | %d | %d |' % (name, what.text, ' *' if what.data else '', len(mine),
                                         Sum(mine, tools[0]).survive)
        for t in tools:
            s = Sum(mine, t)
            row += ' %s | %d | %s |' % (percent(s.right, s.survive), s.nwhole, s.silent or '')
        out.append(row)
    return out


def total_table(cases, tools):
    out = ['| | ' + ' | '.join(HEAD[t] for t in tools) + ' |', '|---|' + '--:|' * len(tools)]
    sums = [Sum(cases, t) for t in tools]

    def row(text, value):
        out.append('| %s | %s |' % (text, ' | '.join(str(value(s)) for s in sums)))

    row('cases', lambda s: s.n)
    row('whole: every surviving block right, none silently wrong', lambda s: s.nwhole)
    row('surviving blocks', lambda s: s.survive)
    row('of these right', lambda s: '%d (%s %%)' % (s.right, percent(s.right, s.survive)))
    row('of these named as lost or inferred', lambda s: s.named)
    row('silently wrong blocks', lambda s: s.silent)
    row('... while the exit status said that all is right', lambda s: s.unsaid)
    row('wrong because guest data itself was written over', lambda s: s.payload)
    row('inferred blocks', lambda s: s.inferred)
    row('of these wrong', lambda s: s.inferred_wrong)
    row('seconds, without reading', lambda s: '%.0f' % s.seconds)
    return out


def unseen(cases):
    """What `check --deep` says nothing of, though blocks are wrong as the image is."""
    bad = [c for c in cases if c.checked == 0 and not c.results['before'][0].whole]
    asked = [c for c in cases if c.checked is not None and not c.results['before'][0].whole]
    return '`check --deep` sees nothing in %d of %d images that show something wrong as they are%s.' % (
        len(bad), len(asked), ': ' + ', '.join(sorted({c.names[0] for c in bad})) if bad else '')


OWN = ('rescue', 'repair')
PEERS = ('before', 'qemu-img')


def worse(case):
    """[(own tool, its right blocks, other, its right blocks)]: where the image as it is, or qemu-img, shows more."""
    return [(t, case.results[t][0].right, p, case.results[p][0].right) for t in OWN for p in PEERS
            if t in case.results and p in case.results and case.results[t][0].right < case.results[p][0].right]


def worse_text(case):
    return '%s: %s' % (' '.join(str(case).split()), ', '.join(
        '%s %d < %s %d' % (HEAD[t], mine, HEAD[p], theirs) for t, mine, p, theirs in worse(case)))


def worse_list(cases):
    bad = [c for c in cases if worse(c)]
    total = sum(max(theirs - mine for t, mine, p, theirs in worse(c)) for c in bad)
    return ['', '## Fewer blocks right than without', '',
            'Cases in which the damaged file as it is, or what qemu-img makes of it, shows more right blocks: %d of %d%s' % (
                len(bad), len(cases), ' (%d blocks).' % total if bad else '.'), ''] + ['* ' + worse_text(c) for c in bad]


def state(case):
    """What platter made of it: by what it lists, where it lists; else by its exit status."""
    v = case.results['rescue' if 'rescue' in case.results else 'repair'][0]
    silent = v.silent + case.results['repair'][0].silent # (repair has a list, too)
    return 'silent' if silent else 'whole' if v.whole else 'part'


def show(cases, args, rescue):
    tools = [t for t in TOOLS if any(t in c.results for c in cases)]
    print('\n'.join(class_table(cases, tools) + [''] + total_table(cases, tools)))
    print('\n'.join(worse_list(cases)))
    if args.deep:
        print('\n' + unseen(cases))
    if args.markdown:
        with open(args.markdown, 'w') as f:
            f.write(document(cases, args, tools, rescue))
    if args.states:
        with open(args.states, 'w') as f:
            f.writelines('%s %s %s %s\n' % (','.join(c.names), c.sound.guest.name, c.sound.shape, state(c))
                         for c in cases)


INTRO = """<!-- SPDX-License-Identifier: BSD-3-Clause -->
# What is brought back of damaged images

`make recovery-report` writes this page: it makes guests with real filesystems, images of them in shuffled order, breaks
them in every way that `tests/fixtures/damage.py list` knows, and looks at each 4 KiB block of what the tools then
give back. Command of this page:

    {command}

platter {version}, {peer};
guests {guests}; shapes `tests/fixtures/image.py list`; {n} cases.

* A block *survives* if all its bytes are still in the damaged file, where the sound image had them. Blocks of zeros
  are not counted.
* *whole*: every surviving block is right, and no block is silently wrong.
* *silent*: wrong, and the tool named it nowhere, neither as lost nor as inferred.
* *as it is*: `platter convert --salvage` of the damaged file.
* {rescue}
* `repair`: `platter repair --yes --report`, its result read by `platter convert --salvage`; named is what that report
  lists. {undo}
* qemu-img: `check -r all`, then `convert --salvage`, whose warnings count as names.
* Of raw disks (R) the table and the superblock are what was hurt: a disk counts as right if the partition is where it
  was and the filesystem's own checker is content, else nobody gets at its files and nothing of it counts.
* Of chains of three (C) the top is read; `repair` is `repair` of each layer, as `check -r all` is; where a backing file is missing or
  another one, `chain repair --search`; where one was written to, `chain verify`, which only says so. What another program has written to a layer is not there any more.
* *: guest data, or a part of it, is not in the file any more.
* What is not where the file begins (R-OFF-1) is repaired into a copy (`repair --output`).
* Of media that do not read everywhere (-ERR) `--rescue` has the map, and has to name all that is not right; the others have none.

"""


def document(cases, args, tools, rescue):
    def version(*command):
        return subprocess.run(command, stdout=subprocess.PIPE).stdout.decode().splitlines()[0].split(' Copy')[0]

    command = 'tests/repair/recovery.py --seed %d --times %d --cuts %d%s' % (args.seed, args.times, args.cuts,
                                                                        ' --deep' if args.deep else '')
    text = INTRO.format(
        command=command, version=args.version, peer=version('qemu-img', '--version'),
        guests=', '.join(sorted({c.sound.guest.name for c in cases})), n=len(cases),
        undo='`undo` gave the damaged file\'s bytes back in %s.' % (
            '%d cases only' % sum(not undo_failed(c) for c in cases) if any(map(undo_failed, cases)) else 'every case'),
        rescue='`--rescue`: `platter convert --rescue --report`%s.' % (
            ', which looks deep by itself; so does `repair`') if rescue else
        '`--rescue`, which will name what is lost, does not exist yet: what `repair` cannot name counts as silent.')
    own = 'rescue' if rescue else 'repair'
    own_share = Sum(cases, own)
    goals = ('Aims: 95 %% of the surviving blocks (%s), none silently wrong (%d), at most 2 %% of what is inferred wrong '
             '(%s).' % (percent(own_share.right, own_share.survive) + ' %', own_share.silent,
                        percent(own_share.inferred_wrong, own_share.inferred) + ' %'))
    todo = [name for name, mine in by_class(cases) if Sum(mine, own).nwhole < len(mine)]
    done = [name for name, mine in by_class(cases) if Sum(mine, own).nwhole == len(mine)]
    return text + '\n'.join(
        ['## All together', ''] + total_table(cases, tools) +
        ['', goals] + (['', unseen(cases)] if args.deep else []) + ['', 'Whole in every case (%s): %s.' % (HEAD[own], ', '.join(done)), '',
         'Not, or not always, whole: %s.' % ', '.join(todo), '', '## By class', ''] + class_table(cases, tools) +
        ['', '## By shape', ''] + shape_table(cases, tools) + worse_list(cases) + bad_list(cases)) + '\n'


def undo_failed(case):
    return any(b.startswith('undo') for b in case.bad)


def bad_list(cases):
    bad = ['* %s: %s' % (' '.join(str(c).split()), re.sub(r'/\S*/', '', b.split('\n')[0])) for c in cases for b in c.bad]
    return ['', '## What must not be', ''] + bad if bad else []


def shape_table(cases, tools):
    out = ['| shape | made with | cases |' + ''.join(' %s: right | silent |' % HEAD[t] for t in tools),
           '|---|---|--:|' + '--:|--:|' * len(tools)]
    for shape, (fmt, options, words) in {**image.SHAPES, **chain.TEXTS}.items():
        mine = [c for c in cases if c.sound.shape == shape]
        row = '| %s | %s | %d |' % (shape, ' '.join(filter(None, [fmt, options, words])), len(mine))
        for t in tools:
            s = Sum(mine, t)
            row += ' %s | %s |' % (percent(s.right, s.survive), s.silent or '')
        if mine:
            out.append(row)
    return out
