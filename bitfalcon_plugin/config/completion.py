"""Scripts that complete the words of the command line in a shell: verbs, settings, and the values of settings.

They are made from cfg/default.yaml and hold all that they need, so that the Tab key starts no Python.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from .command_line import VERBS
from .default_table import active_settings
from .errors import UserError, did_you_mean
from .help_text import keys_of

INSTALL = {
    "bash": "bitfalcon completion bash > ~/.local/share/bash-completion/completions/bitfalcon",
    "zsh": "bitfalcon completion zsh > ~/.zfunc/_bitfalcon    (a folder of $fpath, before compinit)",
    "fish": "bitfalcon completion fish > ~/.config/fish/completions/bitfalcon.fish",
}
SHELLS = tuple(INSTALL)


def completion_script(shell: str) -> str:
    """Return the script for a shell of SHELLS. Raises UserError for another one."""
    makers = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    if shell not in makers:
        raise UserError(
            f"completion {shell}: expected one of {', '.join(SHELLS)}; for example bitfalcon completion bash ."
            f"{did_you_mean(shell, SHELLS)}"
        )
    return f"{makers[shell]()}# To keep it: {INSTALL[shell]}\n"


def values_of(key: str) -> list[str]:
    """The words that a setting may be, where there is a list of them."""
    row = active_settings()[key]
    is_switch = "bool" in row.get("type", "").split("|")
    return [*(["True", "False"] if is_switch else []), *map(str, row.get("choices", ()))]


def _keys() -> Mapping[str, list[str]]:
    """Verb -> its settings as they are typed; "" for a line without a verb."""
    table = {verb: keys_of(verb) for verb in VERBS}
    table[""] = list(active_settings())
    return {verb: ["scale" if key == "model_scale" else key for key in keys] for verb, keys in table.items()}


def _values() -> dict[str, list[str]]:
    return {key: values for key in active_settings() if (values := values_of(key))}


def _cases(rows: Mapping[str, list[str]], variable: str, end: str = "") -> str:
    """The branches of a `case` that set a variable to the words of each row; rows without words are left out."""
    lines = []
    for name, words in rows.items():
        if words:
            text = " ".join(dict.fromkeys(f"{word}{end}" for word in words))
            lines.append(f"    {shlex.quote(name)}) {variable}={shlex.quote(text)} ;;")
    return "\n".join(lines)


def _bash() -> str:
    verbs = " ".join(VERBS)
    return f"""_bitfalcon() {{
  local line="${{COMP_LINE:0:COMP_POINT}}" word verb="" key values="" keys
  local current="${{line##* }}"
  for word in ${{line%"$current"}}; do
    case " {verbs} " in *" ${{word#--}} "*) if [ -z "$verb" ]; then verb="${{word#--}}"; fi ;; esac
  done
  if [[ "$current" == *=* ]]; then
    key="${{current%%=*}}"
    case "${{key#--}}" in
{_cases(_values(), "values")}
    esac
    if [ -n "$values" ]; then
      COMPREPLY=($(compgen -W "$values" -- "${{current#*=}}"))
    else
      COMPREPLY=($(compgen -f -- "${{current#*=}}"))
      compopt -o filenames 2>/dev/null
    fi
    return
  fi
  case "$verb" in
{_cases(_keys(), "keys", "=")}
  esac
  COMPREPLY=($(compgen -W "$keys $([ -z "$verb" ] && echo {shlex.quote(verbs)})" -- "$current"))
  if [[ "${{COMPREPLY[0]}}" == *= ]]; then compopt -o nospace 2>/dev/null; fi
  if [ ${{#COMPREPLY[@]}} -eq 0 ]; then COMPREPLY=($(compgen -f -- "$current")); fi
}}
complete -F _bitfalcon bitfalcon
"""


def _zsh() -> str:
    verbs = " ".join(VERBS)
    return f"""#compdef bitfalcon
_bitfalcon() {{
  local current="${{words[CURRENT]}}" word verb="" values="" keys=""
  for word in "${{(@)words[2,CURRENT-1]}}"; do
    if [[ -z $verb && " {verbs} " == *" ${{word#--}} "* ]]; then verb="${{word#--}}"; fi
  done
  if [[ $current == *=* ]]; then
    case "${{${{current%%=*}}#--}}" in
{_cases(_values(), "values")}
    esac
    compset -P '*='
    if [[ -n $values ]]; then compadd -- ${{=values}}; else _files; fi
    return
  fi
  case "$verb" in
{_cases(_keys(), "keys", "=")}
  esac
  if [[ -z $verb ]]; then compadd -- {verbs}; fi
  compadd -S '' -- ${{=keys}}
  _files
}}
if [[ $funcstack[1] == _bitfalcon ]]; then _bitfalcon "$@"; else compdef _bitfalcon bitfalcon; fi
"""


def _fish() -> str:
    rows, verbs_of_key = active_settings(), {}
    for verb, keys in _keys().items():
        for key in keys if verb else ():
            verbs_of_key.setdefault(key, []).append(verb)
    lines = [
        f"set -l verbs {' '.join(VERBS)}",
        'complete -c bitfalcon -n "not __fish_seen_subcommand_from $verbs" -a "$verbs"',
    ]
    for key, verbs in verbs_of_key.items():
        help_text = rows["model_scale" if key == "scale" and "train" in verbs else key]["help"]
        seen = f"-n '__fish_seen_subcommand_from {' '.join(verbs)}'"
        words = [f"{key}={value}" for value in _values().get(key, [])] or [f"{key}="]
        lines.append(f"complete -c bitfalcon {seen} -a '{' '.join(words)}' -d {_fish_quoted(help_text)}")
    return "\n".join(lines) + "\n"


def _fish_quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
