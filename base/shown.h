/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) the platter authors */
#ifndef PLT_BASE_SHOWN_H
#define PLT_BASE_SHOWN_H

/*
 * What a person may be shown of a text that comes from elsewhere: no name in an image drives a terminal or writes lines
 * of its own.  Nothing becomes longer, and nothing is allocated.
 */
#include <stdbool.h>
#include <stdint.h>

/* Length of the UTF-8 sequence at @p (NUL-terminated), or 0 if there is none. */
static inline unsigned plt_utf8_sequence(const unsigned char *p)
{
	uint32_t min, cp;
	unsigned n;

	if (p[0] < 0x80)
		return 1;
	if (p[0] >= 0xc2 && p[0] <= 0xdf) {
		n = 2;
		min = 0x80;
		cp = p[0] & 0x1f;
	} else if (p[0] >= 0xe0 && p[0] <= 0xef) {
		n = 3;
		min = 0x800;
		cp = p[0] & 0x0f;
	} else if (p[0] >= 0xf0 && p[0] <= 0xf4) {
		n = 4;
		min = 0x10000;
		cp = p[0] & 0x07;
	} else {
		return 0;
	}
	for (unsigned i = 1; i < n; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0; /* NUL ends here too */
		cp = cp << 6 | (p[i] & 0x3f);
	}
	if (cp < min || cp > 0x10ffff || (cp >= 0xd800 && cp <= 0xdfff))
		return 0;
	return n;
}

/*
 * Control characters become '?', so that a file's name cannot drive the terminal; a line break
 * becomes a space unless @breaks; each byte that is not UTF-8 becomes '?'.  With @cut the text was
 * longer: a sequence that the cut left incomplete goes.
 */
static inline void plt_text_clean_cut(char *text, bool cut, bool breaks)
{
	unsigned char *p = (unsigned char *)text;

	while (*p) {
		unsigned n = plt_utf8_sequence(p);

		if (n == 0 && cut && p[0] >= 0xc2 && p[0] <= 0xf4) {
			unsigned k = 1;

			while ((p[k] & 0xc0) == 0x80)
				k++;
			if (p[k] == '\0' && k < 4) {
				*p = '\0';
				return;
			}
		}
		if (n == 1 && p[0] == '\n')
			p[0] = breaks ? '\n' : ' ';
		else if (n == 1 && (p[0] < 0x20 || p[0] == 0x7f))
			p[0] = '?';
		else if (n == 2 && p[0] == 0xc2 && p[1] < 0xa0) /* control characters, too */
			p[0] = p[1] = '?';
		if (n == 0) {
			p[0] = '?';
			n = 1;
		}
		p += n;
	}
}

static inline void plt_text_clean(char *text, bool breaks)
{
	plt_text_clean_cut(text, false, breaks);
}

#endif
