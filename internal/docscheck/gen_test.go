package docscheck
import ("testing";"fmt";"time";"crypto/ecdsa";"crypto/elliptic";"math/big";"encoding/hex"
"github.com/chancery-pki/chancery";"github.com/chancery-pki/chancery/merkle";"github.com/chancery-pki/chancery/tpm")
func TestGen(t *testing.T){
 id,_:=merkle.ParseTrustAnchorID("32473.1.1")
 list:=func(prev *chancery.CRL, first,size uint64, idx ...uint64)*chancery.CRL{
  c,err:=chancery.NextCRL(prev,[]chancery.RevokedSet{{CA:id,Log:1,First:first,Size:size,Indexes:idx}},time.Unix(1e9,0),time.Unix(2e9,0)); if err!=nil{t.Fatal(err)}
  c.Sign(make([]byte,64)); return c}
 body:=func(c *chancery.CRL)string{b:=c.Marshal(); h:=c.Head(); _=h
  // 5 + 4+bodylen + 1+64 + 4
  n:=int(b[5])<<24|int(b[6])<<16|int(b[7])<<8|int(b[8]); at:=5+4+n+65; return hex.EncodeToString(b[at+4:])}
 seq:=func(a,b uint64)(l []uint64){for ;a<b;a++{l=append(l,a)};return}
 for _,x:=range []struct{f,s uint64; i []uint64}{
  {0,20,nil},{0,20,seq(0,20)},{0,20,[]uint64{3,7,8}},{0,16,[]uint64{0,1,3,4,6,7,9,12,13,15}},{0,1000,seq(100,900)},
  {65530,65560,[]uint64{65531,65533,65540}},{0,20,[]uint64{3}},{0,300,[]uint64{17,150,299}}}{
  c:=list(nil,x.f,x.s,x.i...); n:=x.i; if len(n)>12{n=n[:3]}
  fmt.Printf("[%d,%d) %v %d -> %s\n",x.f,x.s,n,len(x.i),body(c))
 }
 a:=list(nil,0,20,3,7,8); b:=list(a,0,24,3,7,8,20); d,err:=b.Delta(a); fmt.Println(hex.EncodeToString(d),err)
 fmt.Println(body(b)); ch:=b.Head().Change; fmt.Println(hex.EncodeToString(ch[:])); 
 bb:=b.Head().Logs[0].Body; fmt.Printf("%x\n",bb)
 bb=a.Head().Logs[0].Body; fmt.Printf("a body hash %x change %x\n",bb,a.Head().Change)
 priv,_:=ecdsa.ParseRawPrivateKey(elliptic.P256(),big.NewInt(1).FillBytes(make([]byte,32)))
 k,_:=chancery.NewPublicKey(&priv.PublicKey)
 var ak tpm.Name; ak[1]=0xb; for i:=2;i<34;i++{ak[i]=0x11}
 var nonce [32]byte; for i:=range nonce{nonce[i]=0x22}
 s:=tpm.Seal{Sealing:tpm.Sealing{Approval:k,Nonce:nonce,PCRs:[]int{7}},AK:ak,Epoch:1,PCRDigest:tpm.PCRValues{7:{}}.Digest()}
 ap,_:=s.Approve(1,tpm.PCRValues{7:{}}); pol:=s.Policy()
 fmt.Printf("A %x\nref %x\npolicy %x\n",ap.Policy,ap.Ref,pol)
 inc:=tpm.Increment(k,ak,1); fmt.Printf("inc %x\nref %x\n",inc.Policy,inc.Ref)
 ap,_=s.Approve(2,tpm.PCRValues{7:{0:1}}); fmt.Printf("approved2 %x\n",ap.Policy)
}
