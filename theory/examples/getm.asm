; Says which mode it is in: 0 is supervisor mode. With `--isa getm` GETM does not trap, and a VM learns that it is
; one.

start:  GETM m
        ADD  m, ='0'
        OUT  m
        HALT
m:      .word 0
