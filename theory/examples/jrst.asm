; Returns to user mode and does there what only a supervisor may: the trap says "u" on the real machine.
;
; With `--isa jrst` JRST does not trap. The monitor, which has the VM run in user mode all along, is not told that
; the VM has left its supervisor mode, carries OUT out for it, and the VM says "s". A hybrid monitor interprets
; everything in the VM's supervisor mode, JRST too.

        .org 1
        .psw supervisor, trap, 0, size

        .org 3
start:  JRST user
user:   OUT  ='s'
        HALT
trap:   OUT  ='u'
        HALT
