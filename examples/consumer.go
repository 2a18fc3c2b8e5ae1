// A complete small consumer: Go, amqp091-go, PostgreSQL by database/sql. What it does, and why, is in docs/consuming.md.
// As text: its syntax is checked where there is a gofmt (tests/consumers.sh), and it is not run.
//
//	go get github.com/rabbitmq/amqp091-go github.com/jackc/pgx/v5
//	AMQP_URL=amqp://guest:guest@127.0.0.1:5672/%2f QUEUE=payments.orders DATABASE=postgres:///orders go run consumer.go
//
// The tables are those of OrderEvents.java, in the database that your orders are in.
package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"log"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	_ "github.com/jackc/pgx/v5/stdlib"
	amqp "github.com/rabbitmq/amqp091-go"
)

type event struct {
	EventType        string `json:"event_type"`
	Environment      string `json:"environment"`
	TradeNo          string `json:"trade_no"`
	OutTradeNo       string `json:"out_trade_no"`
	TotalAmountMinor *int64 `json:"total_amount_minor"` // hundredths; absent where the currency is not CNY
	Refund           *struct {
		RefundFeeMinor *int64 `json:"refund_fee_minor"`
	} `json:"refund"`
}

// What no try will mend, as an event that lacks a member.
const (
	notAnEvent = "not an event of the gateway"
	refused    = "the database refuses it, as a shipment that is there already: look"
)

type order struct {
	amount, refunded int64
	state            string
	tradeNo          sql.NullString
}

// orderOf gives the order with its row locked: two events of one order are handled one after the other.
func orderOf(tx *sql.Tx, number string) (*order, error) {
	var o order
	row := tx.QueryRow(`SELECT amount_minor, refunded_minor, state, trade_no FROM orders
		WHERE out_trade_no = $1 FOR UPDATE`, number)
	switch err := row.Scan(&o.amount, &o.refunded, &o.state, &o.tradeNo); {
	case errors.Is(err, sql.ErrNoRows):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return &o, nil
}

// paid gives what somebody has to look at, if anything.
func paid(tx *sql.Tx, e event) (string, error) {
	o, err := orderOf(tx, e.OutTradeNo)
	if err != nil {
		return "", err
	}
	if o == nil {
		return "a payment of an order that is not ours", nil
	}
	if e.TotalAmountMinor == nil || *e.TotalAmountMinor != o.amount {
		return "the amount is not the order's", nil
	}
	result, err := tx.Exec(`UPDATE orders SET state = 'paid', trade_no = $1
		WHERE out_trade_no = $2 AND state IN ('new', 'closed')`, e.TradeNo, e.OutTradeNo)
	if err != nil {
		return "", err
	}
	if moved, err := result.RowsAffected(); err != nil {
		return "", err
	} else if moved == 1 {
		_, err = tx.Exec(`INSERT INTO shipments VALUES ($1)`, e.OutTradeNo)
		return "", err
	}
	if o.tradeNo.Valid && o.tradeNo.String != e.TradeNo {
		return "the order was paid by two trades: give one back", nil
	}
	// It was refunded before this payment came. The order does not move backwards.
	return "", nil
}

func refunded(tx *sql.Tx, e event) (string, error) {
	o, err := orderOf(tx, e.OutTradeNo)
	if err != nil {
		return "", err
	}
	if o == nil {
		return "a refund of an order that is not ours: it proves that there was a payment", nil
	}
	if o.tradeNo.Valid && o.tradeNo.String != e.TradeNo {
		return "a refund of another trade than the order's: the order stays as it is", nil
	}
	// Such a trade never paid the order. If its refund took the order over, the trade that pays would not be shipped.
	if e.TotalAmountMinor == nil || *e.TotalAmountMinor != o.amount {
		return "a refund of a trade that did not pay the order's amount: the order stays as it is", nil
	}
	// Alipay's figure is the total given back so far; repeats and reorderings cannot make it smaller. It may be missing.
	total, state := o.refunded, "partly_refunded"
	if e.Refund.RefundFeeMinor != nil {
		total = max(total, *e.Refund.RefundFeeMinor)
	}
	if total >= o.amount {
		state = "refunded"
	}
	if _, err := tx.Exec(`UPDATE orders SET state = $1, refunded_minor = $2, trade_no = $3 WHERE out_trade_no = $4`,
		state, total, e.TradeNo, e.OutTradeNo); err != nil {
		return "", err
	}
	if e.Refund.RefundFeeMinor == nil {
		return "a refund that does not say how much was given back: look", nil
	}
	if o.state == "new" || o.state == "closed" {
		return "refunded before its payment was heard of: look before you ship", nil
	}
	return "", nil
}

// act decides on event_type, and never on trade_status: a refund may carry TRADE_SUCCESS.
func act(tx *sql.Tx, e event) (string, error) {
	switch e.EventType {
	case "payment.succeeded", "payment.refunded", "trade.closed":
		if e.TradeNo == "" || e.OutTradeNo == "" || e.EventType == "payment.refunded" && e.Refund == nil {
			return notAnEvent, nil
		}
	}
	switch e.EventType {
	case "payment.succeeded":
		return paid(tx, e)
	case "payment.refunded":
		return refunded(tx, e)
	case "payment.late":
		return "a payment so old that it may have been handled: look", nil
	case "payment.conflict":
		return "the same identity with other money: look", nil
	case "trade.closed":
		_, err := tx.Exec(`UPDATE orders SET state = 'closed' WHERE out_trade_no = $1 AND state = 'new'`, e.OutTradeNo)
		return "", err
	case "notification.other":
		// Another kind of notification, or a trade of which Alipay says something new.
		if e.TradeNo != "" {
			return "a trade in a state that nobody knows: look", nil
		}
		return "", nil
	case "trade.pending", "trade.finished":
		return "", nil
	}
	return "an event type that this program does not know", nil
}

// handle has what the database refuses looked at: no try will mend it, and a queue that it blocks delivers nothing. (Repeats
// do not come here: see ON CONFLICT.)
func handle(db *sql.DB, d amqp.Delivery, environment string) error {
	err := apply(db, d, environment)
	var refusal *pgconn.PgError
	// Classes 22, "data exception", and 23, "integrity constraint violation".
	if errors.As(err, &refusal) && (strings.HasPrefix(refusal.Code, "22") || strings.HasPrefix(refusal.Code, "23")) {
		_, err = db.Exec(`INSERT INTO reviews VALUES ($1, $2, $3)`, clean(d.MessageId), refused, clean(string(d.Body)))
	}
	return err
}

// apply is one message, one transaction: everything of it, or nothing.
func apply(db *sql.DB, d amqp.Delivery, environment string) error {
	tx, err := db.BeginTx(context.Background(), nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	var e event
	why := notAnEvent
	if isEvent(d, &e) {
		// The unique constraint decides, and not a SELECT before it: two copies may be handled at once.
		result, err := tx.Exec(`INSERT INTO seen VALUES ($1) ON CONFLICT DO NOTHING`, d.MessageId)
		if err != nil {
			return err
		}
		if added, err := result.RowsAffected(); err != nil || added == 0 {
			return err
		}
		why = "the money of another environment"
		if e.Environment == environment {
			if why, err = act(tx, e); err != nil {
				return err
			}
		}
	}
	if why != "" {
		_, err := tx.Exec(`INSERT INTO reviews VALUES ($1, $2, $3)`, clean(d.MessageId), why, clean(string(d.Body)))
		if err != nil {
			return err
		}
	}
	return tx.Commit()
}

func isEvent(d amqp.Delivery, e *event) bool {
	if json.Unmarshal(d.Body, e) != nil || e.EventType == "" || e.Environment == "" || d.MessageId == "" {
		return false
	}
	used := e.TradeNo + e.OutTradeNo + d.MessageId
	return used == clean(used)
}

// clean is without what PostgreSQL keeps in no text, however often it is tried.
func clean(text string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(text, "?"), "\x00", "?")
}

func consume(db *sql.DB, environment string) error {
	connection, err := amqp.Dial(os.Getenv("AMQP_URL"))
	if err != nil {
		return err
	}
	defer connection.Close()
	channel, err := connection.Channel()
	if err != nil {
		return err
	}
	if err := channel.Qos(10, 0, false); err != nil {
		return err
	}
	deliveries, err := channel.Consume(os.Getenv("QUEUE"), "", false, false, false, false, nil)
	if err != nil {
		return err
	}
	for d := range deliveries {
		// The message is kept here and tried again. Given back (nack, requeue), it would count as delivered again, and
		// RabbitMQ 4 drops what a quorum queue has delivered 20 times.
		for err := handle(db, d, environment); err != nil; err = handle(db, d, environment) {
			log.Printf("not handled, and tried again: %v", err)
			time.Sleep(time.Second)
		}
		// Only now, after the commit: what is acknowledged is gone.
		if err := d.Ack(false); err != nil {
			return err
		}
	}
	return errors.New("the deliveries have ended")
}

func main() {
	db, err := sql.Open("pgx", os.Getenv("DATABASE"))
	if err != nil {
		log.Fatal(err)
	}
	environment := os.Getenv("ENVIRONMENT")
	if environment == "" {
		environment = "production"
	}
	for {
		log.Printf("connecting again: %v", consume(db, environment))
		time.Sleep(2 * time.Second)
	}
}
