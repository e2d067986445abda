; A control program that shares the processor between two programs which know nothing of each other. Each has a
; relocation-bounds register of its own, and loses the processor when the timer runs down. What they want they ask
; for by SVC: 1 writes the letter in their first word, 0 ends them.
;
; In a VM all of this is virtual: the VM's control program believes that it sets R and the timer.

        .equ slice, 12
        .org 1
        .psw supervisor, trap, 0, size

        .org 3
start:  STT  =slice
        LPSW runs

trap:   STT  =0                 ; nobody interrupts the control program
        MOV  cause, 2
        MOV  t, cause
        SUB  t, =3
        BZ   t, timer
        MOV  t, cause
        AND  t, =255
        SUB  t, =4
        BZ   t, call
        OUT  ='!'               ; they did what they may not
        HALT

timer:  MOV  runs, 0            ; the PSW that the trap stored
        BZ   waits, resume      ; nobody else is left
        MOV  t, runs
        MOV  runs, waits
        MOV  waits, t
resume: STT  =slice
        LPSW runs

call:   MOV  runs, 0
        SHR  cause, =8
        BZ   cause, end
        MOV  l, 0               ; where the program's memory begins: l of its PSW
        SHR  l, =21
        AND  l, =0xfffff
        LDI  t, l
        OUT  t
        JMP  resume

end:    BZ   waits, all
        MOV  runs, waits
        SET  waits, 0
        JMP  resume
all:    OUT  ='\n'
        HALT

cause:  .word 0
t:      .word 0
l:      .word 0
runs:   .psw user, a1 - a, a, 12
waits:  .psw user, b1 - b, b, 12

; The programs. Addresses in them count from their own beginning.
        .org 80
a:      .word 'a'
a1:     SVC  1
        SET  ak - a, 8          ; thinks for longer than the timer lets it
a2:     SUB  ak - a, aone - a
        BNZ  ak - a, a2 - a
        SUB  an - a, aone - a
        BNZ  an - a, a1 - a
        SVC  0
an:     .word 6
aone:   .word 1
ak:     .word 0

        .org 100
b:      .word 'b'
b1:     SVC  1
        SET  bk - b, 8          ; thinks for longer than the timer lets it
b2:     SUB  bk - b, bone - b
        BNZ  bk - b, b2 - b
        SUB  bn - b, bone - b
        BNZ  bn - b, b1 - b
        SVC  0
bn:     .word 9
bone:   .word 1
bk:     .word 0
