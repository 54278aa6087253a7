"""Sending runs elsewhere and finding them again: one folder a sweep, and in it all there is to know. No torch here.

::

    outputs/sweep-NAME-DATE_TIME/
      sweep.json     {"uid", "name", "created", "command", "cwd", "python", "launcher": {…}, "varied": [keys],
                      "points": N, "metric", "higher_is_better", "stores": {uri: id of the parent run there}}
      jobs.jsonl     one line a point and submission, appended; the last line of a point is the one that counts
      code/          the code as it was at submission (launcher=slurm and subprocess); the jobs run from it
      logs/N.log     what the job of point N prints (launcher=subprocess); pool.log: of the process that hands them out
      slurm/         submitit's own files, and there what the jobs print: JOB_0_log.out (launcher=slurm)
      search.json    of a search: axes, settings and what they compose to (``vmamba.launch.space``)
      study.journal  Optuna's view of that search, made anew before each batch
      report/        report.html, report.md, report.csv, written as the last point ends (``vmamba.compare``)
      0/ 1/ 2/ …     run folders: config.yaml (resolved, frozen at submission), overrides.yaml, status.json, …

A line of ``jobs.jsonl``::

    {"point": 0, "attempt": 1, "launcher": "slurm", "job": "17_0", "overrides": ["model.d_state=1"], "folder": "0",
     "log": "slurm/17_0_0_log.out", "time": 1790000000.0}

``folder`` and ``log`` are relative to the sweep folder; ``overrides`` are the words of this point alone (what is the
same in all points is left out; sweep.json's ``command`` has it). ``attempt`` counts submissions; how often SLURM
interrupted and requeued a job is ``preempted`` in the point's ``status.json``.
``job`` is SLURM's id ("17_0" in an array, "17" alone), or "pid.point" of the process that runs it.

A single run with ``launcher=slurm`` is a sweep of one point whose run folder is the sweep folder (``"folder": "."``).

A point's ``status.json`` says ``state``: queued, running, finished, failed (it ended by its own fault: ``error`` has
the line) or killed (something ended it: ``error`` says what), and ``preempted``: N when it was interrupted and put back
in the queue N times (it is "queued" until it runs again). ``points.points(folder)`` puts that together with what SLURM
says; that, not the files, is what to read:

    Point(number, state, attempt, preempted, job, overrides, folder, log, last, metric, value, so_far, started, ended)
"""
