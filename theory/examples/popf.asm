; Takes its own privilege away with a loaded PSW, and does then what only a supervisor may.
;
; With `--isa popf` LPSW in user mode takes P from the PSW and silently leaves M and R: what POPF of x86 does with
; the interrupt flag and IOPL. In a VM the program thus stays in what the monitor takes for supervisor mode.

        .org 1
        .psw supervisor, trap, 0, size

        .org 3
start:  LPSW less
user:   OUT  ='s'
        HALT
trap:   OUT  ='u'
        HALT
less:   .psw user, user, 0, size
