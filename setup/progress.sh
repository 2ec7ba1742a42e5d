# Long steps with a bar. Sourced by setup/install.sh.
#
#   step TITLE COMMAND...   runs COMMAND with its output in a file of build/log. The command reports progress by writing a
#                           percentage per line, such as "42", to file descriptor 3. On a terminal one bar is drawn in
#                           place; elsewhere there is a line at the start, at each quarter and at the end. When COMMAND
#                           fails, the end of its log is shown and step returns its status.

say() { printf '%s\n' "$*"; }
fail() { printf '\n%s\n' "$*" >&2; exit 1; }

step() {
  local title=$1 log started=$SECONDS status outcome=done
  shift
  log=build/log/${title//[^A-Za-z0-9.]/-}.log
  mkdir -p build/log
  set +e
  { "$@" 3>&1 >"$log" 2>&1 </dev/null; } | draw_progress "$title" "$started"
  status=${PIPESTATUS[0]}
  set -e
  ((status == 0)) || outcome=failed
  if [[ -t 1 ]]; then
    ((status == 0)) && draw_bar "$title" 100 "$started"
    printf '%s\n' "$outcome"
  else
    say "$title: $outcome after $((SECONDS - started)) s"
  fi
  if ((status != 0)); then
    printf '\nThe end of %s:\n\n' "$log" >&2
    tail -n 60 "$log" >&2
  fi
  return "$status"
}

# draw_progress TITLE STARTED: draws the percentages read from standard input.
draw_progress() {
  local line percent=0 quarter=0 status
  [[ -t 1 ]] || say "$1 ..."
  while true; do
    IFS= read -r -t 1 line
    status=$?
    ((status != 0 && status <= 128)) && break  # the command has ended; above 128 is a second without news
    [[ $line =~ ^[0-9]+$ ]] && percent=$((line > 100 ? 100 : line))
    if [[ -t 1 ]]; then
      draw_bar "$1" "$percent" "$2"
    elif ((percent / 25 > quarter && percent < 100)); then
      quarter=$((percent / 25))
      say "$1: $percent %"
    fi
  done
}

# draw_bar TITLE PERCENT STARTED
draw_bar() {
  local full='########################' empty=........................ length=24 filled seconds=$((SECONDS - $3))
  filled=$(($2 * length / 100))
  printf '\r%-32s [%s%s] %3d %% %2d:%02d ' "$1" "${full:0:filled}" "${empty:filled}" "$2" $((seconds / 60)) $((seconds % 60))
}

# report_growth DIRECTORY EXPECTED_BYTES COMMAND...: runs COMMAND and reports how much of EXPECTED_BYTES lies in DIRECTORY.
report_growth() {
  local directory=$1 expected_bytes=$2 watcher status=0
  shift 2
  while sleep 0.5; do
    echo $(($(du -sb "$directory" | cut -f1) * 99 / expected_bytes)) >&3
  done 2>/dev/null &
  watcher=$!
  "$@" || status=$?
  kill "$watcher" 2>/dev/null || true
  return "$status"
}
