# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors

platter_SOURCES += \
	cli/args.c \
	cli/chain.h \
	cli/chain_show.c \
	cli/chain_verbs.c \
	cli/cli.h \
	cli/cmd_amend.c \
	cli/cmd_bench.c \
	cli/cmd_bitmap.c \
	cli/cmd_chain.c \
	cli/cmd_check.c \
	cli/cmd_commit.c \
	cli/cmd_compare.c \
	cli/cmd_convert.c \
	cli/cmd_create.c \
	cli/cmd_dd.c \
	cli/cmd_df.c \
	cli/cmd_hash.c \
	cli/cmd_info.c \
	cli/cmd_io.c \
	cli/cmd_map.c \
	cli/cmd_measure.c \
	cli/cmd_rebase.c \
	cli/cmd_repair.c \
	cli/cmd_resize.c \
	cli/cmd_scan.c \
	cli/cmd_snapshot.c \
	cli/cmd_sparsify.c \
	cli/cmd_undo.c \
	cli/findings.c \
	cli/help.c \
	cli/io.h \
	cli/io_args.c \
	cli/io_image.c \
	cli/io_misc.c \
	cli/io_open.c \
	cli/io_read.c \
	cli/io_report.c \
	cli/io_request.c \
	cli/io_table.c \
	cli/io_write.c \
	cli/json.c \
	cli/main.c \
	cli/open.c \
	cli/progress.c \
	cli/rescue.c \
	cli/text.c \
	cli/work.c \
	$(NULL)

dist_man_MANS += docs/platter.1

# The page is kept in the tree, so that a tarball needs no program to install it; a test compares.
# "make update-man" makes it anew after a table of options has changed.
update-man: platter$(EXEEXT)
	$(AM_V_GEN)./platter$(EXEEXT) help --man >$(srcdir)/docs/platter.1.new && \
		mv $(srcdir)/docs/platter.1.new $(srcdir)/docs/platter.1
.PHONY: update-man

bashcompletiondir = $(datadir)/bash-completion/completions
dist_noinst_DATA = cli/completion.bash
install-data-local:
	$(MKDIR_P) $(DESTDIR)$(bashcompletiondir)
	$(INSTALL_DATA) $(srcdir)/cli/completion.bash $(DESTDIR)$(bashcompletiondir)/platter
uninstall-local:
	rm -f $(DESTDIR)$(bashcompletiondir)/platter
