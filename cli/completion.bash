# SPDX-License-Identifier: BSD-3-Clause
# Copyright (c) the platter authors
#
# Bash completion for platter.  It knows no command and no option: the program is asked, so the
# answers are those of the version that runs.

_platter_words()
{
	local word
	while read -r word; do
		case $word in
		@file) compopt -o filenames 2>/dev/null; mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -- "$1") ;;
		@dir) compopt -o filenames 2>/dev/null; mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -d -- "$1") ;;
		@any) ;;
		"$1"*) COMPREPLY+=("$word") ;;
		esac
	done
}

_platter()
{
	local program=${COMP_WORDS[0]} cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}
	local command=${COMP_WORDS[1]} answer

	COMPREPLY=()
	if ((COMP_CWORD == 1)); then
		_platter_words "$cur" < <("$program" --complete commands 2>/dev/null
					  printf '%s\n' --help --version)
		return
	fi
	# "--option=value" comes as three words.
	if [[ $prev == = ]]; then
		prev=${COMP_WORDS[COMP_CWORD-2]}
	elif [[ $cur == = ]]; then
		cur=
	fi
	if [[ $prev == -* ]]; then
		answer=$("$program" --complete value "$command" "$prev" 2>/dev/null)
		if [[ -n $answer ]]; then
			_platter_words "$cur" <<<"$answer"
			return
		fi
	fi
	if [[ $cur == -* ]]; then
		_platter_words "$cur" < <("$program" --complete options "$command" 2>/dev/null)
	elif [[ $command == help ]]; then
		_platter_words "$cur" < <("$program" --complete commands 2>/dev/null)
	else
		_platter_words "$cur" < <("$program" --complete operand "$command" 2>/dev/null)
	fi
}

complete -F _platter platter
