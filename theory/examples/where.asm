; Goes to user mode, asks there for the real address of its first word, which is 3, and has it printed by SVC.
;
; With `--isa lra` LRA does not trap: in a VM the answer is where the first word lies in the machine below. Even a
; hybrid monitor gives it away, for the question is asked in user mode. Where LRA is privileged, the trap says "?".

        .org 1
        .psw supervisor, trap, 0, size

        .org 3
start:  JRST user
user:   LRA  w, start
        SVC  0
trap:   BZ   2, denied          ; cause 0: a privileged instruction
        ADD  w, ='0'
        OUT  w
        HALT
denied: OUT  ='?'
        HALT
w:      .word 0
